"""What this machine has and what of it is in use, as far as this process may use it: cgroup limits and CPU affinity count.

Nothing here raises because a machine is unusual: what cannot be found out is taken for absent.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from skep.model.node import GpuInfo, NodeInfo

try:
    import pynvml
except ImportError:
    pynvml = None

HIGH_MEMORY = 32 * 1024**3
"""Bytes from which a machine has the capability `high-memory`."""

_UP, _LOOPBACK = 0x1, 0x8  # of a network interface's flags


SLOTS: Final = 100
"""Attempts at once on a node that says nothing else."""


class Roots(msgspec.Struct, frozen=True):
    """Where the kernel's file systems are."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")


HERE = Roots()


class Probe(msgspec.Struct, frozen=True):
    """What there is. Sizes in bytes."""

    cpu_milli: int
    memory: int
    disk_free: int
    ssd: bool = False
    """Whether the disk of the probed path surely is one."""
    gpus: tuple[GpuInfo, ...] = ()
    network: bool = False


class GpuUse(msgspec.Struct, frozen=True):
    """One GPU now."""

    percent: float
    memory_used: int
    memory: int


class Sample(msgspec.Struct, frozen=True):
    """What is in use now. Sizes in bytes."""

    cpu_percent: float
    """Of all the machine's processors, since the last sample (0 in the first)."""
    memory_used: int
    memory: int
    disk_free: int
    gpus: tuple[GpuUse, ...] = ()


def probe(path: Path = Path(), roots: Roots = HERE) -> Probe:
    """Looks at the machine, and at the disk on which `path` is, or will be."""
    place = _existing(path)
    return Probe(
        cpu_milli=_cpu_milli(roots),
        memory=_memory(roots),
        disk_free=shutil.disk_usage(place).free,
        ssd=_is_ssd(place, roots),
        gpus=tuple(GpuInfo(name, total, total - used) for name, total, used, _ in _gpus()),
        network=_has_network(roots),
    )


def sample(path: Path = Path(), roots: Roots = HERE) -> Sample:
    """Takes about a millisecond, with GPUs some more."""
    return Sample(
        cpu_percent=psutil.cpu_percent(),
        memory_used=_memory_used(roots),
        memory=_memory(roots),
        disk_free=shutil.disk_usage(_existing(path)).free,
        gpus=tuple(GpuUse(percent, used, total) for _, total, used, percent in _gpus()),
    )


def capabilities(seen: Probe) -> tuple[str, ...]:
    """What tasks may require by name."""
    has = {
        "cpu": True,
        "gpu": bool(seen.gpus),
        "high-memory": seen.memory >= HIGH_MEMORY,
        "ssd": seen.ssd,
        "network": seen.network,
    }
    return tuple(name for name, present in has.items() if present)


def node_info(id: str, seen: Probe, **overrides: Any) -> NodeInfo:
    """The node as it registers, unless `overrides` (fields of NodeInfo) say something else.

    Slots bound the attempts at once; what needs processors (shell tasks, isolated functions) is bounded by its claim on them.
    """
    info = NodeInfo(
        id=id,
        capabilities=capabilities(seen),
        slots=SLOTS,
        cpu_milli=seen.cpu_milli,
        memory=seen.memory,
        vram=sum(gpu.memory for gpu in seen.gpus),
        disk_free=seen.disk_free,
        gpus=seen.gpus,
    )
    return msgspec.structs.replace(info, **overrides)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


# -- processors and memory


def _cpu_milli(roots: Roots) -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [count * 1000]
    for folder in _cgroups("cpu", roots):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        words = _read(folder / "cpu.max").split()  # version 2: quota and period, or `max` and period
        if len(words) == 2 and words[0] != "max":
            quota, period = int(words[0]), int(words[1])
        if quota and period and quota > 0:
            limits.append(quota * 1000 // period)
    return max(1, min(limits))


def _memory(roots: Roots) -> int:
    total = psutil.virtual_memory().total
    if found := re.search(r"^MemTotal:\s+(\d+) kB", _read(roots.proc / "meminfo"), re.MULTILINE):
        total = int(found[1]) * 1024
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [_number(folder / name) for folder in _cgroups("memory", roots) for name in names]
    return min([total, *(limit for limit in limits if limit)])


def _memory_used(roots: Roots) -> int:
    """Of what `_memory` counts: the tightest cgroup's, if one limits this process, else the machine's."""
    machine = psutil.virtual_memory()
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    limited = [
        (limit, used)
        for folder in _cgroups("memory", roots)
        for limit_name, used_name in names
        if (limit := _number(folder / limit_name)) and (used := _number(folder / used_name)) is not None
    ]
    limit, used = min(limited, default=(machine.total, 0))
    return used if limit < machine.total else machine.total - machine.available


def _cgroups(controller: str, roots: Roots) -> list[Path]:
    """The folders whose limits of this kind hold for this process: its own cgroup's and all above, as far as they can be seen.

    In a container the path may lead nowhere, because the container's own cgroup is mounted as the root: that always counts.
    """
    found: list[Path] = []
    for line in _read(roots.proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers == "":
            tops = [roots.cgroup, roots.cgroup / "unified"]
        elif controller in names:
            tops = [roots.cgroup / controllers, roots.cgroup / controller]
        else:
            continue
        for top in tops:
            inner = top / path.strip("/")
            found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top) and folder.is_dir()]
    return found


# -- disk, network, GPUs


def _is_ssd(path: Path, roots: Roots) -> bool:
    """By the `rotational` flag of the disk below the mount on which `path` is."""
    device, source = _mount(path.resolve(), roots)
    for link in (roots.sys / "dev/block" / device, roots.sys / "class/block" / Path(os.path.realpath(source)).name):
        if device and link.exists():
            disk = link.resolve()
            flag = _number(disk / "queue/rotational")  # a partition has none: its disk is the folder above
            return (_number(disk.parent / "queue/rotational") if flag is None else flag) == 0
    return False


def _mount(path: Path, roots: Roots) -> tuple[str, str]:
    """`major:minor` and the source of the mount that holds `path`; empty when unknown."""
    best, found = -1, ("", "")
    for line in _read(roots.proc / "self/mountinfo").splitlines():
        words = line.split()
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), words[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:  # of two at one place the later one is on top
            best, found = len(point.parts), (words[2], words[words.index("-") + 2])
    return found


def _has_network(roots: Roots) -> bool:
    """Whether an interface other than the loopback is up."""
    folder = roots.sys / "class/net"
    if not folder.is_dir():
        return any(one.isup and not name.startswith("lo") for name, one in psutil.net_if_stats().items())
    for interface in folder.iterdir():
        flags = _read(interface / "flags").strip()
        state = _read(interface / "operstate").strip()
        if flags and int(flags, 16) & (_UP | _LOOPBACK) == _UP and state in ("up", "unknown"):  # a tunnel's is unknown
            return True
    return False


def _gpus() -> list[tuple[str, int, int, float]]:
    """(name, memory, memory in use, percent busy) of each GPU that NVML can see."""
    if not _has_nvml():
        return []
    found = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(device)
            memory = pynvml.nvmlDeviceGetMemoryInfo(device)
            text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
            found.append((text, int(memory.total), int(memory.used), _busy_percent(device)))
    except pynvml.NVMLError:
        pass  # a GPU fell off the bus: those before it count
    return found


def _busy_percent(device: Any) -> float:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)
    except pynvml.NVMLError:
        return 0.0  # not told for a slice of a GPU (MIG)


@cache
def _has_nvml() -> bool:
    if pynvml is None:
        return False
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False  # no driver, or one that does not work
    return True


# -- small helpers


def _read(path: Path) -> str:
    """The text of a file of the kernel's; empty when there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None

"""The probe on made-up machines, and once on this one."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from skep.model.node import GpuInfo
from skep.node import probe as module
from skep.node.probe import SLOTS, GpuUse, Probe, Roots, capabilities, node_info, probe, sample

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
GIB = 1024**3
SEEN = Probe(cpu_milli=4_000, memory=8 * GIB, disk_free=1)


class Machine:
    """Trees of files in the place of /sys, /proc and /sys/fs/cgroup."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(sys=folder / "sys", proc=folder / "proc", cgroup=folder / "cgroup")
        self.folder = folder
        self.write("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n")
        self.write("proc/self/cgroup", "0::/\n")
        self.write("sys/class/net/lo/flags", "0x9")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def look(self, path: Path | None = None) -> Probe:
        return probe(path or self.folder, self.roots)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(module, "_has_nvml", lambda: False)
    return Machine(tmp_path)


def test_nothing_limits(machine: Machine) -> None:
    seen = machine.look()
    assert (seen.cpu_milli, seen.memory) == (CPUS * 1000, 16 * GIB)
    assert (seen.gpus, seen.ssd, seen.network) == ((), False, False)
    assert seen.disk_free > 0


def test_no_kernel_files_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_nvml", lambda: False)
    none = tmp_path / "none"
    seen = probe(none / "data" / "later", Roots(none, none, none))
    assert (seen.cpu_milli, seen.memory, seen.ssd) == (CPUS * 1000, psutil.virtual_memory().total, False)


@pytest.mark.parametrize(
    ("text", "expected"), [("50000 100000", 500), ("max 100000", CPUS * 1000), ("6400000 100000", CPUS * 1000), ("1 100000", 1)]
)
def test_cpu_quota_of_cgroup_2(machine: Machine, text: str, expected: int) -> None:
    machine.write("cgroup/cpu.max", text)
    assert machine.look().cpu_milli == expected


def test_the_tightest_limit_above_this_process_counts(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/slice/unit\n")
    machine.write("cgroup/slice/unit/cpu.max", "80000 100000")
    machine.write("cgroup/slice/cpu.max", "30000 100000")
    machine.write("cgroup/slice/unit/memory.max", str(2 * GIB))
    machine.write("cgroup/slice/memory.max", "max")
    machine.write("cgroup/other/memory.max", "1")
    seen = machine.look()
    assert (seen.cpu_milli, seen.memory) == (300, 2 * GIB)


def test_cgroup_1(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "4:memory:/job\n3:cpu,cpuacct:/not/mounted/here\n2:cpuset:/\n0::/\n")
    machine.write("cgroup/cpu,cpuacct/cpu.cfs_quota_us", "25000")
    machine.write("cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000")
    machine.write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    machine.write("cgroup/memory/job/memory.limit_in_bytes", str(GIB))
    seen = machine.look()
    assert (seen.cpu_milli, seen.memory) == (250, GIB)
    machine.write("cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1")
    assert machine.look().cpu_milli == CPUS * 1000


@pytest.mark.parametrize(("flag", "expected"), [("0\n", True), ("1\n", False), ("", False)])
@pytest.mark.parametrize("by", ["number", "name"])
def test_ssd(machine: Machine, flag: str, expected: bool, by: str) -> None:
    data = machine.folder / "with space"
    data.mkdir()
    point = str(data).replace(" ", "\\040")
    machine.write("proc/self/mountinfo", f"1 0 0:9 / / rw - tmpfs none rw\n2 1 8:2 / {point} rw shared:1 - ext4 /dev/sda2 rw\n")
    machine.write("sys/devices/sda/queue/rotational", flag)
    partition = machine.folder / "sys/devices/sda/sda2"
    partition.mkdir()
    link = machine.folder / ("sys/dev/block/8:2" if by == "number" else "sys/class/block/sda2")
    link.parent.mkdir(parents=True)
    link.symlink_to(partition)
    assert machine.look(data).ssd is expected
    assert machine.look(data / "not" / "there" / "yet").ssd is expected
    assert machine.look(machine.folder).ssd is False  # on the tmpfs


@pytest.mark.parametrize(
    ("flags", "state", "expected"),
    [
        ("0x1003", "up", True),
        ("0x1003", "down", False),
        ("0x1002", "up", False),
        ("0x91", "unknown", True),
        ("0x9", "unknown", False),
    ],
)
def test_network(machine: Machine, flags: str, state: str, expected: bool) -> None:
    machine.write("sys/class/net/eth0/flags", flags + "\n")
    machine.write("sys/class/net/eth0/operstate", state + "\n")
    assert machine.look().network is expected


class Nvml:
    """A driver with three GPUs, of which the last one fell off the bus."""

    class NVMLError(Exception):
        pass

    def __init__(self, works: bool = True) -> None:
        self.works = works

    def nvmlInit(self) -> None:
        if not self.works:
            raise self.NVMLError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 2:
            raise self.NVMLError("lost")
        return index

    def nvmlDeviceGetName(self, device: int) -> Any:
        return b"Old" if device else "New"

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:
        return SimpleNamespace(total=10 * GIB, used=device * GIB)

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Any:
        if device:
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=30)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(driver: Nvml | None) -> None:
        monkeypatch.setattr(module, "pynvml", driver)
        module._has_nvml.cache_clear()

    yield use
    monkeypatch.undo()
    module._has_nvml.cache_clear()


def test_gpus(nvml: Any, tmp_path: Path) -> None:
    nvml(Nvml())
    assert probe(tmp_path).gpus == (GpuInfo("New", 10 * GIB, 10 * GIB), GpuInfo("Old", 10 * GIB, 9 * GIB))
    assert sample(tmp_path).gpus == (GpuUse(30.0, 0, 10 * GIB), GpuUse(0.0, GIB, 10 * GIB))


@pytest.mark.parametrize("driver", [None, Nvml(works=False)])
def test_no_gpus(nvml: Any, tmp_path: Path, driver: Nvml | None) -> None:
    nvml(driver)
    assert probe(tmp_path).gpus == ()
    assert sample(tmp_path).gpus == ()


def test_capabilities() -> None:
    assert capabilities(SEEN) == ("cpu",)
    all_of_it = Probe(1_000, 32 * GIB, 1, ssd=True, gpus=(GpuInfo("one", 1, 1),), network=True)
    assert capabilities(all_of_it) == ("cpu", "gpu", "high-memory", "ssd", "network")


def test_node_info() -> None:
    seen = Probe(3_500, 8 * GIB, 5, gpus=(GpuInfo("one", 2 * GIB, GIB), GpuInfo("two", GIB, GIB)))
    info = node_info("n1", seen, labels={"zone": "a"}, cpu_milli=1_000)
    assert (info.id, info.slots, info.cpu_milli, info.vram) == ("n1", SLOTS, 1_000, 3 * GIB)
    assert (info.memory, info.disk_free, info.labels) == (8 * GIB, 5, {"zone": "a"})
    assert node_info("n2", Probe(100, 1, 1), slots=1).slots == 1


def test_sample_within_a_cgroup(machine: Machine) -> None:
    machine.write("cgroup/memory.max", str(2 * GIB))
    machine.write("cgroup/memory.current", str(GIB))
    taken = sample(machine.folder, machine.roots)
    assert (taken.memory, taken.memory_used) == (2 * GIB, GIB)


def test_this_machine() -> None:
    seen, taken = probe(), sample()
    assert 0 < seen.cpu_milli <= CPUS * 1000
    assert 0 < taken.memory_used <= taken.memory == seen.memory
    assert 0 <= taken.cpu_percent <= 100
    assert "cpu" in node_info("here", seen).capabilities

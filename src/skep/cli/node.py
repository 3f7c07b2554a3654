"""`skep node`."""

from __future__ import annotations

import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
import uvloop

from skep.cli.local import milli, take_secrets
from skep.cli.options import parse_pairs
from skep.client.reach import KEY, TLS_CA, TOKEN, URL
from skep.config import data_home
from skep.errors import RefusedError
from skep.model.node import APP, NodeInfo
from skep.model.units import parse_bytes
from skep.node.detached import Listed, check_name, take_name
from skep.node.dial import Dial, dial_in_turn, dial_url, node_tls
from skep.node.probe import node_info, probe
from skep.node.supervisor import Supervisor
from skep.process import tune
from skep.version import VERSION

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

STATE: Final = "joined"
"""Below the data directory: nodes of servers elsewhere, apart from those of a server of its own."""
IMPORT_S: Final = 300.0
"""For the modules of --app to be imported, once, to see whether they can be."""
TAIL: Final = 3_000
TRY: Final = """
import importlib, sys, traceback
sys.path[:] = sys.argv[2:]
try:
    importlib.import_module(sys.argv[1])
except BaseException as error:
    trace = error.__traceback__
    while trace is not None and ("importlib" in (name := trace.tb_frame.f_code.co_filename) or name == "<string>"):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    sys.exit(1)
"""
"""Imports a module, and shows why it cannot be."""


@app.command()
def node(
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="`https://host:port`; several of one engine with commas (or set SKEP_URL)."),
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="KEY", help="A key of role node (better: set SKEP_TOKEN).")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file with the key.")] = None,
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="MODULE", help="Run the functions of this module, as it is found here. Repeat it."),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Among the nodes (default: the machine's name).")] = None,
    slots: Annotated[int | None, typer.Option(metavar="N", min=1, help="Attempts at once.")] = None,
    cpu: Annotated[str | None, typer.Option(metavar="CORES", help="Cores to give (default: all).")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory to give, such as 8GB (default: all).")] = None,
    vram: Annotated[str | None, typer.Option(metavar="SIZE", help="GPU memory to give (default: all).")] = None,
    capability: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Something more that tasks may require. Repeat it.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label. Repeat it.")] = None,
    swarm: Annotated[str, typer.Option(metavar="NAME", help="The group it belongs to.")] = "default",
    region: Annotated[str, typer.Option(metavar="NAME", help="Where it is.")] = "local",
    cost_per_hour: Annotated[float, typer.Option(metavar="COST", min=0, help="What an hour of it costs.")] = 0.0,
    weight: Annotated[float, typer.Option(metavar="W", min=0, help="How much it likes work, against others with 1.")] = 1.0,
    shell: Annotated[bool, typer.Option("--shell/--no-shell", help="Whether it runs commands.")] = True,
    workdir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where work starts that names no directory (default: one of its own).")
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificates to trust instead of the system's (or set SKEP_TLS_CA)."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="A certificate to show, if the server asks.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where it keeps who it is (or set SKEP_HOME).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what goes wrong.")] = False,
) -> None:
    """Join a server elsewhere, and run its tasks here.

    It calls the server, by one connection that passes NAT and proxies, and calls again for as long as it takes. Ctrl-C lets
    running tasks end, a second one hands them to other nodes, a third one ends everything at once.

    **Examples**

    - `skep node --server http://10.0.0.5:7420 --token-file key`
    - `skep node --server https://skep.example --app shop.tasks --slots 8 --label zone=eu --no-shell`
    """
    if tls_cert is not None and tls_key is None:
        raise typer.BadParameter("needs --tls-key", param_hint="--tls-cert")
    key = _key(token, token_file)
    ca = tls_ca or (Path(found) if (found := os.environ.get(TLS_CA)) else None)
    dial = _dial(server or os.environ.get(URL) or "", key, ca, tls_cert, tls_key)
    called = check_name(name or platform.node().partition(".")[0] or "node")
    sizes = _sizes(slots, cpu, memory, vram)
    home = data_home(data) / STATE
    base = workdir.expanduser().absolute() if workdir is not None else home / "work" / called
    made = node_info(called, probe(data_home(data)), **sizes)
    info = msgspec.structs.replace(
        made,
        capabilities=tuple(dict.fromkeys([*made.capabilities, *(capability or ()), *(f"{APP}{one}" for one in apps or ())])),
        labels=parse_pairs(label or (), "--label"),
        executors=tuple(word for word in made.executors if shell or word != "run"),
        swarm=swarm,
        region=region,
        cost_per_hour=cost_per_hour,
        weight=weight,
        version=VERSION,
        any_app=False,
    )
    _tell_to_stderr(quiet)
    if why := _serve(home, base, info, dial, list(apps or ())):
        raise RefusedError(why)


def _serve(home: Path, base: Path, info: NodeInfo, dial: Dial, apps: list[str]) -> str:
    """Is the node until it ends. Answers why the server does not want it. Raises RefusedError."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        base.mkdir(parents=True, exist_ok=True)
        file, me = take_name(home, info.id)
    except OSError as error:
        raise RefusedError(f"{error.filename or home} cannot be used: {error.strerror or error}; choose --data") from None
    with file:
        secrets = take_secrets()
        if apps:
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
            _check_apps(apps)
        tune()
        return uvloop.run(_supervise(home, _started(info, me), dial, base, secrets))


async def _supervise(home: Path, info: NodeInfo, dial: Dial, base: Path, secrets: dict[str, str]) -> str:
    return await Supervisor(home, info, dial, base, secrets, math.inf).run()


def _started(info: NodeInfo, me: Listed) -> NodeInfo:
    return msgspec.structs.replace(info, incarnation=me.incarnation, pid=me.pid, identity=me.identity)


def _check_apps(apps: Sequence[str]) -> None:
    """Imports the modules, in a process of their own, to see whether workers can. Raises RefusedError."""
    for one in apps:
        argv = [sys.executable, "-P", "-c", TRY, one, *map(os.path.abspath, sys.path)]
        try:
            tried = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=IMPORT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise RefusedError(f"--app {one}: its import takes more than {IMPORT_S:g} s") from None
        if tried.returncode:
            told = tried.stderr.decode(errors="replace").strip()[-TAIL:]
            raise RefusedError(f"--app {one} cannot be imported here:\n{told or f'it ended with {tried.returncode}'}")


def _dial(servers: str, key: str | None, ca: Path | None, cert: Path | None, cert_key: Path | None) -> Dial:
    urls = [url.strip() for url in servers.split(",") if url.strip()]
    if not urls:
        raise typer.BadParameter("name a server, such as https://skep.example:7420, or set SKEP_URL", param_hint="--server")
    tls = node_tls(ca, cert, cert_key) if any(url.startswith("https:") for url in urls) else None
    return dial_in_turn([dial_url(url, key, tls) for url in urls])


def _key(token: str | None, file: Path | None) -> str | None:
    """The key, which is taken out of the environment: no task inherits it. Raises BadParameter."""
    inherited = os.environ.pop(TOKEN, None)
    if file is not None:
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint="--token-file") from None
    token = token or inherited
    if token and not token.startswith(KEY):
        raise typer.BadParameter(f"is no key: one begins with {KEY!r}, as `skep keys create` shows it", param_hint="--token")
    return token


def _sizes(slots: int | None, cpu: str | None, memory: str | None, vram: str | None) -> dict[str, Any]:
    """Raises BadParameter."""
    found: dict[str, Any] = {"slots": slots} if slots else {}
    for option, field, read, text in (
        ("--cpu", "cpu_milli", milli, cpu),
        ("--memory", "memory", parse_bytes, memory),
        ("--vram", "vram", parse_bytes, vram),
    ):
        if text is not None:
            try:
                found[field] = read(text)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint=option) from None
    return found


def _tell_to_stderr(quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("skep")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)

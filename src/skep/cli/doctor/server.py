"""The server of a data directory: whether one runs, answers and is well."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from skep import __version__
from skep.cli.doctor.finding import Finding, judged
from skep.client import PROTOCOL, Client
from skep.config import socket_path
from skep.errors import SkepError


def look(home: Path) -> Iterator[Finding]:
    """Everything about the server."""
    path = socket_path(home)
    if not path.exists():
        yield judged("server", "none runs here")
        return
    if not _listens(path):
        advice = "nothing to do: the next `skep up` takes it over"
        yield judged("server", f"none runs; {path} was left behind by one that crashed", note=True, advice=advice)
        return
    try:
        with Client(home) as client:
            status = client.insight.status()
    except SkepError as error:
        yield judged(
            "server", f"does not answer as it should: {error}", wrong=True, advice="look at its terminal; start it again"
        )
        return
    found = f"{status.version}, process {status.pid}, {status.state}"
    advice = status.trouble or "stop it and start it again, so that both are of one version"
    other = status.version != __version__ or status.protocol != PROTOCOL
    yield judged("server", found, wrong=bool(status.trouble), note=other, advice=advice)
    if status.rejected_events:
        found = f"{status.rejected_events:,} events could not be recorded"
        yield judged(
            "events", found, wrong=True, advice="they are kept in the table `rejected` of the record; please report it"
        )


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True

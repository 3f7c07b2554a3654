"""Where things are kept, and what the environment hands over."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from skep.errors import RefusedError

SECRET: Final = "SKEP_SECRET_"
"""`SKEP_SECRET_NAME` in the environment is `${{ secrets.NAME }}`."""

MOST_SOCKET: Final = 100
"""Bytes in the path of a socket: 108 on Linux, 104 on macOS, the NUL included."""


def data_home(given: str | Path | None = None) -> Path:
    """The data directory: the one given (`--data`), else SKEP_HOME, else the platform's place for a user's data."""
    if given:
        return Path(given).expanduser().absolute()
    home = os.environ.get("SKEP_HOME")
    if home:
        return Path(home).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "skep"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "skep"


def socket_path(home: Path) -> Path:
    """Where the server of a data directory listens. A socket's path may have some 100 bytes: a longer one stands in for it in
    the directory for temporary files, under a name made of the directory's."""
    path = home / "skep.sock"
    if len(os.fsencode(path)) < MOST_SOCKET:
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"skep-{os.getuid()}" / f"{digest}.sock"


def secrets_from(environ: Mapping[str, str]) -> dict[str, str]:
    """The secrets in an environment, by name. Raises RefusedError for one that is no text."""
    found = {name.removeprefix(SECRET): value for name, value in environ.items() if name.startswith(SECRET)}
    for name, value in found.items():
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise RefusedError(f"{SECRET}{name} holds bytes that are no UTF-8; encode it, as base64 for example")
    return found


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment as tasks may see it."""
    return {name: value for name, value in environ.items() if not name.startswith(SECRET)}

"""Where things are kept, and what the environment hands over."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from skep.errors import RefusedError

SECRET: Final = "SKEP_SECRET_"
"""`SKEP_SECRET_NAME` in the environment is `${{ secrets.NAME }}`."""


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

"""Where things are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path


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

"""Real servers, started and killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from skep.testing.up import Up


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Not yet started; one node of 8 slots."""
    with Up(tmp_path / "home", "--node", "n:cpu;slots=8;cpu=8") as server:
        yield server

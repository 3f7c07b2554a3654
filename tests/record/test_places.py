"""Where a record may be kept, and what is said of the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from skep.errors import RecordError
from skep.record.places import dialect_of, is_url
from skep.record.sqlite import Sqlite


def test_a_path_is_sqlite_and_a_url_is_postgresql(tmp_path: Path) -> None:
    assert isinstance(dialect_of(tmp_path / "record.sqlite"), Sqlite)
    assert isinstance(dialect_of(None), Sqlite)
    assert dialect_of("postgres://skep:secret@db/skep").shown == "postgresql://skep@db/skep"
    assert is_url("postgresql:///skep")
    assert not is_url(tmp_path)


@pytest.mark.parametrize("where", ["redis://db", "record.sqlite", ""])
def test_anything_else_is_refused(where: str) -> None:
    with pytest.raises(RecordError, match=r"expected postgresql://|named by a path"):
        dialect_of(where)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skep.record.postgres", None)
    with pytest.raises(RecordError, match=r"pip install 'skep\[postgres\]'"):
        dialect_of("postgresql://db/skep")

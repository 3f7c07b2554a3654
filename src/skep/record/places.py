"""Where a record is kept: a file, memory, or a database that a URL names."""

from __future__ import annotations

from pathlib import Path

from skep.errors import RecordError
from skep.record.dialect import Dialect
from skep.record.sqlite import Sqlite


def is_url(where: Path | str | None) -> bool:
    """Whether it names a PostgreSQL database."""
    return isinstance(where, str) and where.startswith(("postgresql://", "postgres://"))


def dialect_of(where: Path | str | None) -> Dialect:
    """Of a file, a URL, or of memory. Raises RecordError."""
    if where is None or isinstance(where, Path):
        return Sqlite(where)
    if not is_url(where):
        scheme = where.partition("://")[0] if "://" in where else ""
        raise RecordError(
            f"a record cannot be kept in {scheme}://…; expected postgresql://user@host:5432/database"
            if scheme
            else "a record is named by a path or by postgresql://user@host:5432/database"
        )
    try:
        from skep.record.postgres import Postgres  # noqa: PLC0415  psycopg is an extra
    except ImportError as error:
        raise RecordError(
            f"a record in PostgreSQL needs the extra `postgres`: `pip install 'skep[postgres]'` ({error})"
        ) from error
    return Postgres(where)

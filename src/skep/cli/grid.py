"""Rows in columns, as wide as they need and a terminal allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from skep.cli.screen import Line, cells, cut, plain

GAP: Final = 2
LEAST: Final = 8
"""Columns to which a text may be cut."""
SHORT: Final = 13
"""Of a run's id, that stand for it where there is no room: the moment at which it was made, to a millisecond."""

Cell: TypeAlias = str | tuple[str, str]
"""A text, or a text and its style."""


class Column(NamedTuple):
    """One column. `cut`: its texts may be shortened for want of room. `short`: where that is not enough, so many of their first
    characters will do."""

    head: str
    right: bool = False
    cut: bool = False
    short: int = 0


class Grid:
    """Draws pages of rows; those of later pages stand below those of the first."""

    def __init__(self, columns: Sequence[Column], width: int | None) -> None:
        """`width`: of the terminal; None: nothing is cut."""
        self._columns = columns
        self._width = width
        self._widths: list[int] = []

    def page(self, rows: Iterable[Sequence[Cell]]) -> Iterator[Line]:
        """The lines of a page, under a head when it is the first."""
        table = [[(plain(cell), "") if isinstance(cell, str) else (plain(cell[0]), cell[1]) for cell in row] for row in rows]
        if not self._widths:
            self._widths = self._measure(table)
            yield self._line([(column.head, "dim") for column in self._columns])
        for row in table:
            yield self._line(row)

    def _measure(self, table: Sequence[Sequence[tuple[str, str]]]) -> list[int]:
        texts = zip(*([column.head for column in self._columns], *([text for text, _ in row] for row in table)), strict=True)
        widths = [max(map(cells, column)) for column in texts]
        over = sum(widths) + GAP * (len(widths) - 1) - (self._width or 1 << 30) + 1
        while over > 0:
            most = max((at for at, column in enumerate(self._columns) if column.cut), key=widths.__getitem__, default=None)
            if most is None or widths[most] <= LEAST:
                break
            widths[most] -= 1
            over -= 1
        if over > 0:
            widths = [min(wide, column.short or wide) for wide, column in zip(widths, self._columns, strict=True)]
        return widths

    def _line(self, row: Sequence[tuple[str, str]]) -> Line:
        spans: list[tuple[str, str]] = []
        last = len(row) - 1
        for at, ((text, style), column, wide) in enumerate(zip(row, self._columns, self._widths, strict=True)):
            if self._width and column.cut:
                text = cut(text, wide)
            elif column.short:
                text = text[:wide]
            room = " " * max(wide - cells(text), 0)
            spans.append((room + text if column.right else text, style))
            if at < last:
                spans.append(((" " * GAP) if column.right else room + " " * GAP, ""))
        return spans

"""Rows in columns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skep.cli.grid import GAP, LEAST, SHORT, Column, Grid
from skep.cli.screen import cells, paint

COLUMNS = (Column("run"), Column("name", cut=True), Column("took", right=True), Column("labels", cut=True))


def drawn(rows: list[list[str]], width: int | None) -> list[str]:
    return [paint(line, color=False) for line in Grid(COLUMNS, width).page(rows)]


def test_columns_are_as_wide_as_their_widest_text() -> None:
    assert [line.rstrip() for line in drawn([["a", "b", "1s", "x=1"], ["aaaa", "bbbbbb", "10s", ""]], None)] == [
        "run   name    took  labels",
        "a     b         1s  x=1",
        "aaaa  bbbbbb   10s",
    ]


def test_later_pages_stand_below_the_first() -> None:
    grid = Grid(COLUMNS, None)
    first = [paint(line, color=False) for line in grid.page([["aaaa", "b", "1s", ""]])]
    later = [paint(line, color=False) for line in grid.page([["c", "d", "2s", ""]])]
    assert first[1].index("b") == later[0].index("d")
    assert len(later) == 1


@given(st.lists(st.lists(st.text(max_size=60), min_size=4, max_size=4), max_size=5), st.integers(60, 200))
def test_a_table_fits_its_terminal_where_what_may_be_cut_is_enough(rows: list[list[str]], width: int) -> None:
    rows = [[row[0][:10], row[1], row[2][:10], row[3]] for row in rows]
    lines = drawn(rows, width)
    assert len(lines) == len(rows) + 1
    for line in lines:
        assert cells(line) < max(width, 20 + 3 * GAP + 2 * LEAST)
        assert "\n" not in line


def test_ids_give_way_only_when_cutting_is_not_enough() -> None:
    run, columns = "01a20fdc-1867-7c65-bb1e-d61fa4399b1f", (Column("run", short=SHORT), Column("name", cut=True))

    def row(width: int) -> str:
        return paint([*Grid(columns, width).page([[run, "n" * 30]])][1], color=False)

    assert row(80).startswith(f"{run}  nnn")
    assert row(50) == f"{run}  {'n' * 10}…"
    assert row(40) == f"01a20fdc-1867  {'n' * 7}…"


def test_nothing_is_cut_where_there_is_no_terminal() -> None:
    assert "x" * 500 in drawn([["a", "x" * 500, "", "y" * 500]], None)[1]

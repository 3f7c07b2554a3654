import pytest

from tally import column, lines, matches, numbers

CSV = ["path,ms\n", '"/a,b",12\n', "/c, 7.5 \n", "/d,\n", "/e\n"]
LOG = ["GET / 200 12ms\n", "\n", "restarted\n", "GET /x 404 3ms\n"]


def test_a_column_respects_quotes() -> None:
    assert column(CSV, "path") == ["/a,b", "/c", "/d", "/e"]


def test_a_column_leaves_out_empty_and_missing_cells() -> None:
    assert column(CSV, "ms") == ["12", "7.5"]


@pytest.mark.parametrize(("text", "has"), [(CSV, "path, ms"), ([], "none")])
def test_an_unknown_column_names_the_known_ones(text: list[str], has: str) -> None:
    with pytest.raises(ValueError, match=f"no column 'size'; the file has {has}"):
        column(text, "size")


def test_a_pattern_gives_its_first_group() -> None:
    assert matches(LOG, r"(\d+)ms") == ["12", "3"]


def test_a_pattern_without_a_group_gives_the_whole_match() -> None:
    assert matches(LOG, r"\b[45]\d\d\b") == ["404"]


def test_a_group_that_took_no_part_gives_nothing() -> None:
    assert matches(["a", "b1"], r"[ab](\d)?") == ["1"]


def test_a_bad_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="bad pattern"):
        matches(LOG, "(")


def test_blank_lines_do_not_count() -> None:
    assert lines(LOG) == ["GET / 200 12ms", "restarted", "GET /x 404 3ms"]


@pytest.mark.parametrize("text", ["n/a", "nan", "inf", ""])
def test_one_text_makes_all_of_them_text(text: str) -> None:
    assert numbers(["1", "-2.5e3"]) == [1.0, -2500.0]
    assert numbers(["1", text]) is None

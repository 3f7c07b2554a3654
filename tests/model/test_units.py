"""Units: what people write becomes exact integers, what they mistype is refused with a helpful text."""

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skep.model import units

GIANT = pytest.param(1 << 99_999, id="giant")  # more digits than Python turns into text


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        (0, 0), (90, 90_000), (0.1, 100), (1.5, 1_500), (1e-9, 1), ("90", 90_000), ("0.25", 250),
        ("250ms", 250), ("90s", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("1h 30m", 5_400_000), (" 2d ", 172_800_000),
        ("1w", 604_800_000), ("1.5h", 5_400_000), ("1m500ms", 60_500), ("5 m", 300_000), ("2h05m", 7_500_000),
        ("PT1H30M", 5_400_000), ("P1DT12H", 129_600_000), ("P2W", 1_209_600_000), ("PT0.5S", 500), ("3650d", 315_360_000_000),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_exact_milliseconds(written: Any, ms: int) -> None:
    assert units.parse_duration_ms(written) == ms


@pytest.mark.parametrize(
    "written",
    [
        -1, -0.5, "-5m", True, False, None, float("nan"), float("inf"), "", "  ", "five", "5x", "5M", "5 5m", "30m1h", "5m5m",
        "1e3", "P", "PT", "P1Y", "P1M", "P1DT", "nan", "inf", "11000d", 10**400, 1e300, "9" * 5_000, "٣s", "5m\n;", b"5m", [5],
    ],
)  # fmt: skip
def test_a_wrong_duration_is_refused_with_an_example(written: Any) -> None:
    with pytest.raises(ValueError, match=r"is not a duration from 0 to 10 years.*for example 1h30m") as refusal:
        units.parse_duration_ms(written)
    assert len(str(refusal.value)) < 250


def test_a_refusal_shows_what_was_written() -> None:
    with pytest.raises(ValueError, match=re.escape("'5 minutes' is not a duration")):
        units.parse_duration_ms("5 minutes")


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "0ms"), (340, "340ms"), (999, "999ms"), (1_000, "1s"), (1_250, "1.2s"), (59_999, "59.9s"), (60_000, "1m"),
        (250_000, "4m10s"), (245_999, "4m05s"), (7_500_000, "2h05m"), (86_399_999, "23h59m"), (273_600_000, "3d4h"),
        (-340, "-340ms"),
    ],
)  # fmt: skip
def test_a_duration_is_shown_compactly(ms: int, shown: str) -> None:
    assert units.format_duration(ms) == shown


@given(st.integers(0, units.MAX_DURATION_MS))
def test_a_shown_duration_reads_back_less_only_what_was_cut(ms: int) -> None:
    back = units.parse_duration_ms(units.format_duration(ms))
    assert 0 <= ms - back < max(1, ms / 10)
    assert units.format_duration(back) == units.format_duration(ms)


@given(st.integers(0, 10**9))
def test_seconds_as_number_and_as_text_mean_the_same(tenths: int) -> None:
    seconds = tenths / 10
    if tenths * 100 <= units.MAX_DURATION_MS:
        assert units.parse_duration_ms(seconds) == units.parse_duration_ms(f"{seconds}s") == tenths * 100


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0), (4096, 4096), ("4096", 4096), ("512B", 512), ("8GB", 8 * 10**9), ("8gb", 8 * 10**9), ("8G", 8 * 10**9),
        ("512MiB", 512 << 20), ("512Mi", 512 << 20), ("1.5 GB", 1_500_000_000), ("1KB", 1_000), ("1KiB", 1_024), ("0.1B", 1),
        ("1EiB", 1 << 60),
    ],
)  # fmt: skip
def test_a_size_is_read_as_bytes(written: Any, size: int) -> None:
    assert units.parse_bytes(written) == size


@pytest.mark.parametrize(
    "written",
    [-1, "-1GB", True, None, 1.5, "", "GB", "8XB", "8iB", "1,5GB", "2EiB", "1e9", GIANT, "9" * 9_999, "8GBB"],
)
def test_a_wrong_size_is_refused_with_an_example(written: Any) -> None:
    with pytest.raises(ValueError, match=r"is not a size from 0 to 1 EiB.*for example 8GB") as refusal:
        units.parse_bytes(written)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0B"), (999, "999B"), (1_000, "1KB"), (1_010, "1KB"), (1_024, "1KiB"), (1_500, "1.5KB"), (512 << 20, "512MiB"),
        (8 * 10**9, "8GB"), (8 << 30, "8GiB"), (1_299_999_999, "1.2GB"), (-1_000, "-1KB"),
    ],
)  # fmt: skip
def test_a_size_is_shown_compactly(size: int, shown: str) -> None:
    assert units.format_bytes(size) == shown


@given(st.integers(0, units.MAX_BYTES))
@example(1023 << 20)
def test_a_shown_size_reads_back_less_only_what_was_cut(size: int) -> None:
    assert 0 <= size - units.parse_bytes(units.format_bytes(size)) < max(1, size / 10)


@given(st.integers(1, 999), st.sampled_from(["KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"]))
def test_a_whole_number_of_a_unit_survives_the_round_trip(number: int, unit: str) -> None:
    assert units.parse_bytes(units.format_bytes(units.parse_bytes(f"{number}{unit}"))) == units.parse_bytes(f"{number} {unit}")


@pytest.mark.parametrize(
    ("written", "priority"), [(1, 1), (10, 10), ("7", 7), ("low", 3), ("Normal", 5), ("high", 8), ("critical", 10)]
)
def test_a_priority_is_a_number_or_a_name(written: Any, priority: int) -> None:
    assert units.parse_priority(written) == priority


@pytest.mark.parametrize("written", [0, 11, -1, "0", "11", "urgent", "", True, 5.0, None, "5.0", GIANT])
def test_a_wrong_priority_is_refused_with_the_choices(written: Any) -> None:
    with pytest.raises(ValueError, match="is not a priority: a whole number from 1 to 10, or low, normal, high, critical"):
        units.parse_priority(written)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.from_regex(r"[0-9.]{1,5}[a-zA-Z]{0,3}")))
def test_no_value_makes_a_parser_fail_otherwise_than_by_refusing(written: Any) -> None:
    for parse, most in (
        (units.parse_duration_ms, units.MAX_DURATION_MS),
        (units.parse_bytes, units.MAX_BYTES),
        (units.parse_priority, units.MAX_PRIORITY),
    ):
        try:
            result = parse(written)
        except ValueError:
            continue
        assert type(result) is int
        assert 0 <= result <= most

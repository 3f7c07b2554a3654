"""Plain text for people: aligned columns and bars."""

from collections.abc import Sequence

from tally.stats import Bin, Summary


def bar(part: int, whole: int, width: int) -> str:
    """A bar for `part` where `whole` has the full width; never empty unless `part` is 0."""
    if part == 0:
        return ""
    return "#" * max(1, round(width * part / whole))


def render_summary(summary: Summary, bins: Sequence[Bin], width: int = 40) -> str:
    rows = [("count", str(summary.count)), ("min", f"{summary.low:.6g}")]
    rows += [(f"p{percent:g}", f"{value:.6g}") for percent, value in summary.percentiles.items()]
    rows += [("max", f"{summary.high:.6g}"), ("mean", f"{summary.mean:.6g}")]
    text = [f"{name:<6} {value:>10}" for name, value in rows]
    labels = [f"{bin.low:.6g}" for bin in bins]
    return "\n".join([*text, "", *_bars(labels, [bin.count for bin in bins], width)])


def render_counts(counts: Sequence[tuple[str, int]], width: int = 40) -> str:
    return "\n".join(_bars([name for name, _ in counts], [many for _, many in counts], width))


def _bars(labels: Sequence[str], counts: Sequence[int], width: int) -> list[str]:
    if not counts:
        return []
    column = max(map(len, labels))
    digits = len(str(max(counts)))
    return [
        f"{label:>{column}}  {many:>{digits}}  {bar(many, max(counts), width)}".rstrip()
        for label, many in zip(labels, counts, strict=True)
    ]

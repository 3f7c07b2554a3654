"""The command line."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from tally import chart, read, stats


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        "tally", description="Counts, percentiles and a text histogram of a CSV column or a log."
    )
    result.add_argument("file", nargs="?", default="-", help="a CSV file or a log; - reads stdin")
    source = result.add_mutually_exclusive_group()
    source.add_argument("--column", metavar="NAME", help="a column of a CSV file")
    source.add_argument("--pattern", metavar="REGEX", help="its first group, once a line of a log")
    result.add_argument("--count", action="store_true", help="count numbers like texts")
    result.add_argument("--percentiles", metavar="LIST", default="50,90,99")
    result.add_argument("--bins", type=int, default=10)
    result.add_argument("--top", type=int, default=10, help="how many distinct texts to show")
    result.add_argument("--width", type=int, default=40, help="of the longest bar")
    result.add_argument("--json", action="store_true", help="print JSON instead")
    return result


def tally(text: Iterable[str], options: argparse.Namespace) -> str:
    """Numbers get percentiles and a histogram; anything else is counted."""
    if options.column:
        values = read.column(text, options.column)
    elif options.pattern:
        values = read.matches(text, options.pattern)
    else:
        values = read.lines(text)
    if not values:
        raise ValueError("nothing to count")
    found = None if options.count else read.numbers(values)
    if found is None:
        counts = stats.count(values)[: options.top]
        if options.json:
            return json.dumps(dict(counts))
        return chart.render_counts(counts, options.width)
    percents = [float(percent) for percent in options.percentiles.split(",")]
    summary = stats.summarise(found, percents)
    bins = stats.histogram(found, options.bins)
    if options.json:
        return json.dumps({**asdict(summary), "histogram": [asdict(bin) for bin in bins]})
    return chart.render_summary(summary, bins, options.width)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 with one line on standard error."""
    options = parser().parse_args(arguments)
    try:
        if options.file == "-":
            print(tally(sys.stdin, options))
        else:
            with open(options.file, encoding="utf-8", newline="") as text:
                print(tally(text, options))
    except (OSError, ValueError) as error:
        print(f"tally: {error}", file=sys.stderr)
        return 2
    return 0

"""Counts, percentiles and a text histogram of a CSV column or a log."""

from tally.chart import render_counts, render_summary
from tally.read import column, lines, matches, numbers
from tally.stats import Bin, Summary, count, histogram, percentile, summarise

__all__ = [
    "Bin",
    "Summary",
    "column",
    "count",
    "histogram",
    "lines",
    "matches",
    "numbers",
    "percentile",
    "render_counts",
    "render_summary",
    "summarise",
]

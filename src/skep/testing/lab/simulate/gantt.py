"""The picture of a simulation: a row for each slot of each node, a bar for each attempt, in SVG."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

from skep.model.units import format_duration
from skep.testing.lab.simulate.compare import Picture
from skep.testing.lab.simulate.fleetfile import SimulatedNode
from skep.testing.lab.simulate.simulation import STARTS_MS, Span
from skep.testing.lab.simulate.work import Work

COLORS: Final = (
    "#4e79a7", "#f28e2b", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#86bcb6", "#d37295",
)  # fmt: skip
LOST: Final = "#d1242f"
WIDE, ROW, NAMES, MARGIN, TITLE, AXIS = 900, 14, 110, 20, 34, 24
"""Of the bars' area, one row, the column of names, the space around, a panel's title and its axis, in px."""
MOST_ROWS: Final = 64
MOST_BARS: Final = 20_000
TICKS: Final = 6


def gantt(pictures: Sequence[Picture], nodes: Sequence[SimulatedNode]) -> str:
    """One panel below the other; those of the same workflow have the same scale, so that they can be compared."""
    panels, top = [], MARGIN
    rows = [(node.info.id, slot) for node in nodes for slot in range(node.info.slots)][:MOST_ROWS]
    longest: dict[str, int] = {}
    for picture in pictures:
        longest[picture.workflow] = max(longest.get(picture.workflow, 1), picture.makespan_ms)
    for picture in pictures:
        panels.append(_panel(picture, rows, longest[picture.workflow], top))
        top += TITLE + len(rows) * ROW + AXIS + MARGIN
    width = NAMES + WIDE + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}" '
        'font-family="system-ui, sans-serif" font-size="11">\n'
        f'<title>Simulated runs</title>\n<rect width="{width}" height="{top}" fill="#ffffff"/>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def _panel(picture: Picture, rows: Sequence[tuple[str, int]], longest: int, top: int) -> str:
    left, high = MARGIN + NAMES, len(rows) * ROW
    first = top + TITLE
    scale = WIDE / longest
    parts = [
        f'<text x="{MARGIN}" y="{top + 14}" font-size="14" font-weight="600">{html.escape(picture.workflow)}</text>'
        f'<text x="{MARGIN}" y="{top + 28}" fill="#57606a">{html.escape(picture.player)}: '
        f"{format_duration(picture.makespan_ms)}</text>"
    ]
    for at, (node, slot) in enumerate(rows):
        y = first + at * ROW
        shade = "#f6f8fa" if at % 2 else "#ffffff"
        name = node if not slot else ""
        parts.append(
            f'<rect x="{left}" y="{y}" width="{WIDE}" height="{ROW}" fill="{shade}"/>'
            f'<text x="{left - 8}" y="{y + ROW - 3}" text-anchor="end">{html.escape(name)}</text>'
        )
    for tick in range(TICKS + 1):
        x, ms = left + WIDE * tick / TICKS, round(longest * tick / TICKS)
        anchor = "end" if tick == TICKS else "middle"
        parts.append(
            f'<line x1="{x:.1f}" y1="{first}" x2="{x:.1f}" y2="{first + high}" stroke="#d0d7de" stroke-width="0.5"/>'
            f'<text x="{x:.1f}" y="{first + high + 14}" text-anchor="{anchor}" fill="#57606a">{format_duration(ms)}</text>'
        )
    place = {row: at for at, row in enumerate(rows)}
    for span in picture.spans[:MOST_BARS]:
        if row := place.get((span.node, span.slot), -1) + 1:
            y = first + (row - 1) * ROW
            parts.append(_bar(span, picture.works, left + (span.start_ms - STARTS_MS) * scale, y, scale))
    end = left + picture.makespan_ms * scale
    parts.append(
        f'<line x1="{end:.1f}" y1="{first}" x2="{end:.1f}" y2="{first + high}" stroke="#1f2328" stroke-dasharray="3 2"/>'
    )
    return "\n".join(parts)


def _bar(span: Span, works: Sequence[Work], x: float, y: int, scale: float) -> str:
    work = works[span.run % len(works)]
    name = work.step_name(span.step)
    color = LOST if span.lost else COLORS[hash_of(stem(name) if len(works) == 1 else work.name) % len(COLORS)]
    took = format_duration(span.end_ms - span.start_ms)
    told = html.escape(f"{name}: {took}{', lost with its node' if span.lost else ''}")
    width = max((span.end_ms - span.start_ms) * scale, 0.6)
    return (
        f'<rect x="{x:.1f}" y="{y + 1}" width="{width:.1f}" height="{ROW - 2}" rx="1.5" fill="{color}" '
        f'stroke="#ffffff" stroke-width="0.4"><title>{told}</title></rect>'
    )


def stem(name: str) -> str:
    """What tasks of one sort have in common: the name without the numbers at its end."""
    return name.partition("[")[0].rstrip("0123456789").rstrip("_-.").removesuffix("ID").rstrip("_-.") or name


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return sum((at + 1) * ord(character) for at, character in enumerate(text))

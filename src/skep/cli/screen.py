"""Lines of coloured text for a terminal, and a region at its bottom that is drawn over and over."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import Final, TextIO, TypeAlias

Span: TypeAlias = tuple[str, str]
"""A text and its style: words of `STYLES`, or none."""
Line: TypeAlias = Sequence[Span]

STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")


def plain(text: str) -> str:
    """The text without what would move a terminal's cursor: escape sequences and control characters."""
    if text.isprintable():
        return text
    text = _ESCAPES.sub("", text).replace("\t", "  ")
    return "".join(character for character in text if character.isprintable())


def cells(text: str) -> int:
    """How many columns the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """The text in at most so many columns, with `…` where it was cut."""
    if cells(text) <= columns:
        return text
    room, kept = columns - 1, []
    for character in text:
        room -= _cells(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "…" if columns > 0 else ""


def fit(text: str, columns: int) -> str:
    """The text in exactly so many columns."""
    text = cut(text, columns)
    return text + " " * (columns - cells(text))


def paint(line: Line, color: bool, columns: int | None = None) -> str:
    """The line as a terminal takes it, cut to a width."""
    parts: list[str] = []
    for text, style in line:
        if columns is not None:
            text = cut(text, columns)
            columns -= cells(text)
        codes = ";".join(STYLES[word] for word in style.split()) if color else ""
        parts.append(f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text)
    return "".join(parts)


def bar(done: float, columns: int, style: str = "green") -> Line:
    """A progress bar; `done` from 0 to 1, in half columns."""
    halves = int(min(max(done, 0.0), 1.0) * columns * 2)
    full, half = divmod(halves, 2)
    rest = columns - full - half
    return [("━" * full + "╸" * half, style), ("─" * rest, "dim")]


class Region:
    """The last lines of a terminal. `draw` replaces them, `above` adds lines that stay."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._height = 0
        self._columns = 0

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            return os.get_terminal_size(self._file.fileno())
        except OSError:
            return 80, 24

    def draw(self, lines: Sequence[Line], above: Sequence[Line] = ()) -> None:
        """Writes all of it at once, without flicker where the terminal can do that. A line never wraps."""
        columns = self.size[0]
        rows = [paint(line, True, columns - 1) for line in (*above, *lines)]
        # Lines of an earlier, wider frame wrapped when the terminal became narrower.
        height = self._height * -(-self._columns // columns) if self._columns > columns else self._height
        up = f"\x1b[{height}A" if height else ""
        # Each line is written over the old one, and its rest cleared. To clear all of it first would flicker, and there are
        # terminals that keep what is cleared from their top on: every frame.
        self._file.write(f"\x1b[?2026h\x1b[?25l\r{up}" + "".join(f"{row}\x1b[K\n" for row in rows) + "\x1b[J\x1b[?2026l")
        self._file.flush()
        self._height, self._columns = len(lines), columns

    def leave(self) -> None:
        """What is drawn stays; the cursor shows again below it."""
        self._file.write("\x1b[?25h")
        self._file.flush()
        self._height = 0

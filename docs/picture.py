"""Draws `docs/run.svg`: a moment of the release gate in a terminal. `python docs/picture.py`, when the live view has changed.

It runs `skep run` on a terminal of its own, keeps every picture that the live view draws, and writes one as SVG.
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS, LINES = 100, 40
COLORS = {"31": "#f87171", "32": "#4ade80", "33": "#facc15", "34": "#60a5fa", "35": "#e879f9", "36": "#22d3ee"}
WIDE, HIGH, MARGIN = 8.43, 19, 16
"""Of a character of 14 px, and around all of them, in px."""


def pictures() -> list[list[str]]:
    """Every picture of one run, as lines with their escape sequences."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    with tempfile.TemporaryDirectory() as place:
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "TERM": "xterm-256color", "SKEP_HOME": f"{place}/data", "PATH": tools, "PYTHONUTF8": "1"}
        flow = ROOT / "examples" / "release-gate" / "flow.yaml"
        nodes = ["--node", "builder:cpu,ssd;cpu=4", "--node", "tester:cpu,high-memory;cpu=4", "--node", "gateway:cpu,network"]
        command = [sys.executable, "-m", "skep", "run", str(flow), "--input", f"work={place}/work", *nodes]
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=slave)
        os.close(slave)
        data = b""
        try:
            while chunk := os.read(master, 1 << 16):
                data += chunk
        except OSError:  # the terminal's other end is closed
            pass
        if running.wait():
            raise SystemExit("the release gate failed")
    drawn = re.findall(r"\x1b\[\?2026h(.*?)\x1b\[\?2026l", data.decode(), re.DOTALL)
    return [re.sub(r"^\x1b\[\?25l\r(\x1b\[\d+A)?\x1b\[J", "", one).rstrip().split("\r\n") for one in drawn]


def svg(lines: list[str]) -> str:
    """The lines as a drawing."""
    width, height = round(COLUMNS * WIDE + 2 * MARGIN), (len(lines) + 1) * HIGH + 2 * MARGIN
    shown = ["\x1b[2m$ \x1b[0mskep run examples/release-gate/flow.yaml", *lines]
    rows = [_row(line, at) for at, line in enumerate(shown)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        "<title>A run of the release gate in the terminal</title>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="#16181d"/>\n'
        '<g fill="#e5e7eb" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14">\n'
        + "\n".join(rows)
        + "\n</g>\n</svg>\n"
    )


def _row(line: str, at: int) -> str:
    spans, column, style = [], 0, ""
    for codes, text in re.findall(r"(?:\x1b\[([\d;]*)m)?([^\x1b]*)", line):
        style = codes if codes or text.startswith("\x1b") else style
        if text.strip():
            lead = len(text) - len(text.lstrip())
            shown, x = text.strip(), MARGIN + (column + lead) * WIDE
            spans.append(f'<tspan x="{x:.1f}" textLength="{len(shown) * WIDE:.1f}"{_paint(style)}>{html.escape(shown)}</tspan>')
        column += len(text)
    return f'<text xml:space="preserve" y="{MARGIN + (at + 0.8) * HIGH:.1f}">{"".join(spans)}</text>'


def _paint(codes: str) -> str:
    words = codes.split(";")
    color = next((COLORS[word] for word in words if word in COLORS), "#7d8590" if "2" in words else "")
    return (f' fill="{color}"' if color else "") + (' font-weight="bold"' if "1" in words else "")


if __name__ == "__main__":
    found = pictures()
    best = max(range(len(found)), key=lambda at: (sum("━" in line and "─" in line for line in found[at]), len(found[at]), -at))
    (ROOT / "docs" / "run.svg").write_text(svg(found[best]), "utf-8")
    print("\n".join(found[best]))

"""The live view on a terminal of 100 columns, as it looks in the end, and the folding behind it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from typing import Any

from skep.cli.board import Board
from skep.cli.screen import bar, cut, fit, paint, plain
from skep.flow.plan import compile_plan
from skep.model.authoring import build_workflow
from skep.model.event import Event
from skep.model.wait import Wait

COLUMNS, LINES = 100, 30

FLOW = """
name: gate
tasks:
  find: {run: "echo '[1, 2, 3]' > $SKEP_OUTPUT"}
  test: {run: "touch t${{ item }}", map: "${{ tasks.find.output }}"}
  lint: {run: "echo fine"}
  build: {needs: [lint], run: "until [ -e t1 -a -e t2 -a -e t3 -a -e n ]; do sleep 0.01; done; exit 3"}
  ship: {needs: [build], run: "true"}
  noop_1: {run: "touch n"}
"""


MANY = """
from skep import task, workflow

@task
async def nop(i: int) -> int:
    return i

@workflow
def big(n: list[int]):
    return nop.map(n)
"""


class Terminal:
    """As much of a terminal as the view needs: text over text, line feeds, carriage returns, cursor up, erasing."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0

    def feed(self, data: str) -> None:
        for text, ups, erase in re.findall(r"([^\x1b]+)|\x1b\[(\d+)A|\x1b\[([JK])|\x1b\[[?\d;]*[a-zA-Z]", data):
            if ups:
                self.row = max(self.row - int(ups), 0)
            elif erase:
                assert (self.row, self.column) != (0, 0), "a terminal such as tmux keeps what is cleared from its top on"
                self.lines[self.row] = self.lines[self.row][: self.column]
                if erase == "J":
                    del self.lines[self.row + 1 :]
            else:
                self.write(text)

    def write(self, text: str) -> None:
        for part in re.findall(r"[\r\n]|[^\r\n]+", text):
            if part == "\n":
                self.row, self.column = self.row + 1, 0
                if self.row == len(self.lines):
                    self.lines.append("")
            elif part == "\r":
                self.column = 0
            else:
                line, self.column = self.lines[self.row], self.column + len(part)
                self.lines[self.row] = line[: self.column - len(part)] + part + line[self.column :]
                assert self.column <= COLUMNS


def watch(skep: Any, *args: str) -> tuple[str, str, int]:
    """Runs with standard error on a terminal. Answers the last picture, all that was written, and the exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = skep.start(*args, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    chunks = []
    try:
        while chunk := os.read(ours, 65_536):
            chunks.append(chunk)
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    process.wait(timeout=20)
    data = b"".join(chunks).decode()
    terminal = Terminal()
    terminal.feed(data)
    return "\n".join(line.rstrip() for line in terminal.lines), data, process.returncode


def test_the_last_picture_is_the_tree_of_the_run(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    picture, data, code = watch(skep, "run", "flow.yaml")
    assert code == 1
    lines = picture.splitlines()
    assert re.fullmatch(r"gate  failed  \S+", lines[0])
    shapes = [
        r"✓ find           local   +\S+",
        r"╰─ ✓ test        local   +\S+     ━{20} 3/3",
        r"   ├─ ✓ test\[0\]  local   +\S+",
        r"   ├─ ✓ test\[1\]  local   +\S+",
        r"   ╰─ ✓ test\[2\]  local   +\S+",
        r"✓ lint           local   +\S+",
        r"╰─ ✗ build       local   +\S+     ExitCode: exit code 3",
        r"   ╰─ – ship +run failed",
        r"✓ noop_1         local   +\S+",
        r"━{40}  8/8  1 failed  1 skipped",
    ]
    for line, shape in zip(lines[1:], shapes, strict=False):
        assert re.fullmatch(shape, line), (shape, picture)
    assert "✗ build failed on local: ExitCode: exit code 3" in picture
    assert re.search(r"gate failed in \S+: 6 succeeded, 1 failed, 1 skipped", picture)
    assert data.count("\x1b[?25h") == 1, "the cursor is shown again, once"


def test_ten_thousand_tasks_are_one_row(skep: Any) -> None:
    skep.file("many.py", MANY)
    skep.file("in.json", '{"n": ' + str(list(range(10_000))) + "}")
    picture, data, code = watch(skep, "run", "many.py:big", "--inputs", "in.json")
    assert code == 0
    assert "10,000/10,000" in picture
    assert "big succeeded" in picture
    assert len(data) < 200_000


def test_no_live_view_where_colours_are_not_wanted(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    for options in (["--no-color"], ["--quiet"]):
        _, data, _ = watch(skep, "run", "flow.yaml", *options)
        assert "\x1b[?25" not in data
    skep.env["NO_COLOR"] = "1"
    assert "\x1b" not in watch(skep, "run", "flow.yaml")[1]


# -- the board


def board(tasks: dict[str, Any]) -> Board:
    return Board(compile_plan(build_workflow({"name": "w", "tasks": tasks})))


def names(shown: Board) -> list[str]:
    return [row.branch + row.name for row in shown.tree.order]


def test_many_alike_are_one_row_and_few_are_not() -> None:
    alike = {f"get_{number}": {"run": "t"} for number in range(13)}
    assert names(board({**alike, "end": {"run": "t", "needs": [*alike]}})) == ["get", "╰─ end"]
    alike.popitem()
    assert len(names(board(alike))) == 12


def test_rows_of_alike_tasks_never_form_a_circle() -> None:
    tasks: dict[str, Any] = {"a_0": {"run": "t"}}
    for number in range(1, 60):
        tasks[f"{'ab'[number % 2]}_{number}"] = {"run": "t", "needs": [[*tasks][-1]]}
    assert names(board(tasks)) == ["a", "╰─ b"]


def test_a_deep_tree_is_drawn_to_its_sixth_level() -> None:
    tasks: dict[str, Any] = {"a": {"run": "t"}}
    for name in "bcdefgh":
        tasks[name] = {"run": "t", "needs": [[*tasks][-1]]}
    drawn = names(board(tasks))
    assert (
        drawn[-3:] == ["               ├─ f".replace("   ", "", 1), "            ├─ g", "            ╰─ h"]
        or max(map(len, drawn)) < 20
    )


def test_counts_follow_the_events() -> None:
    shown = board({"m": {"run": "t", "map": [1, 2]}, "x": {"run": "t", "needs": ["m"]}})
    events = [
        Event(1, 5, "loaded", "r", count=2),
        Event(2, 5, "parked", "r", 0, reason="map", first=2, count=2),
        Event(3, 6, "granted", "r", 2, attempt=1, node="n"),
        Event(4, 7, "retrying", "r", 2, attempt=1, due_ms=99, error=b'{"type":"E","message":"m"}', started_ms=6, ran_ms=1),
        Event(5, 8, "granted", "r", 2, attempt=2, node="n"),
        Event(6, 9, "granted", "r", 3, attempt=1, node="n"),
    ]
    shown.take(events)
    assert (shown.total, shown.ended, shown.counts[3]) == (3, 0, 2)
    assert names(shown) == ["m", "├─ m[0]", "├─ m[1]", "╰─ x"]
    shown.take(
        [Event(7, 10, "succeeded", "r", 2, attempt=2, started_ms=8, ran_ms=2), Event(8, 11, "cancelled", "r", tasks=(1, 3))]
    )
    assert (shown.ended, shown.counts[5], shown.counts[7]) == (3, 1, 2)
    assert [row.name for row in shown.recent] == ["m[0]", "x", "m[1]"]


def test_what_waits_says_for_what_and_is_decided_anew() -> None:
    shown = board({"ask": {"approval": "Ship it?"}, "go": {"wait_for": {"event": "pushed", "key": "web"}}})
    asked = Wait(kind="approval", message="Ship it?\nReally?").encode()
    waits = Wait(kind="event", event="pushed", key="web").encode()
    shown.take(
        [
            Event(1, 5, "parked", "r", 0, attempt=1, reason="approval", data=asked),
            Event(2, 6, "parked", "r", 1, attempt=1, reason="event", data=waits),
        ]
    )
    assert [row.note for row in shown.tree.of] == ["waits for an approval: Ship it?", "waits for the event pushed of web"]
    assert shown.counts[4] == 2
    shown.take([Event(3, 7, "ready", "r", tasks=(0,))])
    assert (shown.counts[4], shown.counts[2], list(shown.active)) == (1, 1, [shown.tree.of[1]])


def test_a_retried_run_goes_on_where_it_ended() -> None:
    shown = board({"a": {"run": "t"}, "b": {"run": "t", "needs": ["a"]}})
    shown.take(
        [
            Event(1, 5, "loaded", "r", count=2),
            Event(2, 6, "granted", "r", 0, attempt=1, node="n"),
            Event(3, 7, "failed", "r", 0, attempt=1, error=b'{"type":"E","message":"m"}', started_ms=6, ran_ms=1),
            Event(4, 8, "skipped", "r", tasks=(1,), reason="run_failed"),
            Event(5, 8, "ended", "r", state=4, reason="task_failed"),
        ]
    )
    assert (shown.state.label, len(shown.failed), shown.ended) == ("failed", 1, 2)
    shown.take([Event(6, 9, "loaded", "r", count=2), Event(7, 9, "reset", "r", tasks=(0, 1), command=1)])
    assert (shown.state.label, shown.failed, shown.ended, shown.started_ms, shown.ended_ms) == ("running", [], 0, 5, 0)
    shown.take([Event(8, 10, "adopted", "r", 0, attempt=2, node="n", token_epoch=1, token=2)])
    assert shown.counts[3] == 1
    shown.take([Event(9, 10, "paused", "r")])
    assert shown.paused


# -- the screen


def test_text_is_cut_by_columns() -> None:
    assert cut("abcdef", 4) == "abc…"
    assert cut("日本語", 5) == "日本…"
    assert fit("日本", 5) == "日本 "
    assert cut("abc", 0) == ""


def test_what_moves_the_cursor_is_taken_out() -> None:
    assert plain("\x1b[31mred\x1b[0m\r\n\ttab\x07\x1b]0;title\x07!") == "red  tab!"


def test_a_bar_has_its_width() -> None:
    for done in (-1, 0, 0.33, 0.5, 1, 2):
        assert sum(len(text) for text, _ in bar(done, 10)) == 10
    assert paint(bar(0.25, 10), color=False) == "━━╸───────"

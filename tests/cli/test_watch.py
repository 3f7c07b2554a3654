"""`skep watch`: through crashes of the server, without gap or repeat; and what Ctrl-C does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from typing import Any

CHAIN = """
name: chain
tasks:
  one: {run: "true"}
  two: {run: "until [ -e go ]; do sleep 0.02; done", needs: [one]}
  each: {run: "echo ${{ item }}", map: [1, 2, 3], needs: [two]}
  ask: {approval: "Ship it?", needs: [each]}
  end: {run: "echo done", needs: [ask]}
"""


def test_a_watch_goes_on_over_a_crash_without_gap_or_repeat(own_server: Any, wait: Any) -> None:
    server = own_server
    run = server.submit("flow.yaml", CHAIN)
    process = server.start("watch", run)
    lines: list[str] = []

    def reader() -> None:
        for line in process.stderr:
            lines.append(line)

    thread = threading.Thread(target=reader)
    thread.start()
    wait(lambda: any("one on local" in line for line in lines))
    server.kill()
    wait(lambda: any("server is away" in line for line in lines))
    server.begin()
    wait(lambda: any("server is back" in line for line in lines))
    server.file("go", "")
    wait(lambda: any("waits for an approval" in line for line in lines))
    server("approve", run)
    assert process.wait(timeout=30) == 0
    thread.join()
    text = "".join(lines)
    for name in ("one", "two", "each[0]", "each[1]", "each[2]", "end"):
        assert len(re.findall(rf"ok +\S+  {re.escape(name)} on local", text)) == 1, text
    assert "chain succeeded" in text


def test_an_interrupt_leaves_the_run_alone(server: Any, wait: Any) -> None:
    run = server.submit("flow.yaml", CHAIN)
    process = server.start("watch", run)
    line = ""
    while "one on local" not in line:
        line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 4
    rest = process.stderr.read()
    assert f"skep watch {run}" in rest
    assert "Traceback" not in rest
    assert server.state(run) == "running"
    server("cancel", run)


def test_an_ended_run_is_shown_at_once(server: Any, wait: Any) -> None:
    run = server.submit("flow.yaml", "name: over\ntasks:\n  a: {run: 'echo why >&2; exit 3'}\noutput: 1\n")
    wait(lambda: server.state(run) == "failed")
    done = server("watch", run, code=1)
    assert "exit code 3" in done.stderr
    assert server.json("watch", run, "--json", code=1)["state"] == "failed"
    assert "why" in server("watch", run, "--quiet", code=1).stderr


def test_the_live_view_is_the_tree_of_the_run(server: Any, wait: Any) -> None:
    server.file("go", "")
    run = server.submit("flow.yaml", CHAIN)
    with server.client() as client:
        wait(lambda: client.tasks.waits(run=run))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = server.start("watch", run, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    data = b""
    while "waits for an approval: Ship it?" not in data.decode("utf-8", "replace"):
        data += os.read(ours, 65_536)
    server("approve", run)
    try:
        while chunk := os.read(ours, 65_536):
            data += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=20) == 0
    last = data.decode().rpartition("\x1b[?2026h")[2]
    assert "╰─" in last
    assert "7/7" in last
    assert "succeeded" in last
    assert "\x1b[?25h" in last, "the cursor shows again"

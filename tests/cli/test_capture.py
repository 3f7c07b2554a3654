"""Where text goes that code prints while standard output is captured."""

from __future__ import annotations

import sys
import threading

from skep.model.run import Token
from skep.node.capture import capture
from skep.node.context import TaskContext, current


class Port:
    def __init__(self) -> None:
        self.written: list[tuple[str, bytes]] = []

    def log(self, stream: str, data: bytes) -> None:
        self.written.append((stream, data))

    def progress(self, done: float, total: float, message: str) -> None: ...

    def call(self, verb: str, *args: object) -> None: ...

    async def call_async(self, verb: str, *args: object) -> None: ...


def test_a_task_prints_to_its_log_and_everybody_else_outside() -> None:
    outside: list[str] = []
    port = Port()
    before = sys.stdout, sys.stderr
    with capture(outside.append):
        token = current.set(TaskContext(port, run="r", task="t", attempt=1, token=Token(1, 1)))
        print("out")
        print("err", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes \xff")
        sys.stdout.flush()
        thread = threading.Thread(target=print, args=["thread"])
        thread.start()
        thread.join()
        current.reset(token)
        print("after")
        assert sys.stdout.writable()
        assert not sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == before
    by_stream = {name: b"".join(data for stream, data in port.written if stream == name) for name in ("out", "err")}
    assert by_stream == {"out": b"out\nbytes \xef\xbf\xbd", "err": b"err\n"}
    assert "".join(outside) == "thread\nafter\n"

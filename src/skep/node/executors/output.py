"""What a command or worker prints, on its way to the log: gathered, masked, and its tail kept for messages."""

from __future__ import annotations

import asyncio
import signal

from skep.model.node import ErrorInfo
from skep.node.attempt import Attempt, Host
from skep.node.functions import clean
from skep.node.processes import Exit
from skep.node.secrets import Mask

GATHER_S = 0.1
GATHER_BYTES = 64 * 1024
TAIL_BYTES, TAIL_LINES = 2_000, 10


class Log:
    """What an attempt writes, on its way to the host: masked, and small writes gathered for 100 ms. Its ends are kept."""

    def __init__(self, host: Host, attempt: Attempt, mask: Mask, capture: int = 0) -> None:
        self.mask = mask
        self.captured = bytearray()
        """The first `capture` bytes of standard output."""
        self.out_bytes = 0
        self._host, self._attempt, self._capture = host, attempt, capture
        self._undecided: dict[str, bytes] = {}
        self._gathered: dict[str, bytearray] = {}
        self._tails: dict[str, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None

    def write(self, stream: str, data: bytes) -> None:
        data, self._undecided[stream] = self.mask.cut(self._undecided.get(stream, b"") + data)
        self._take(stream, data)

    def note(self, text: str) -> None:
        """A line of Skep's own."""
        self.flush()
        self._host.write_log(self._attempt, "log", f"skep: {self.mask.text(text)}\n".encode(errors="replace"))

    def tail(self) -> str:
        """The last lines of standard error, else of standard output, to be shown below an error; empty when there are none."""
        text = (self._tails.get("err", b"").strip() or self._tails.get("out", b"").strip()).decode(errors="replace")
        return "".join(f"\n{line}" for line in text.splitlines()[-TAIL_LINES:])

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._gathered = self._gathered, {}
        for stream, data in gathered.items():
            self._host.write_log(self._attempt, stream, bytes(data))

    def close(self) -> None:
        """Nothing follows. May be called again."""
        undecided, self._undecided = self._undecided, {}
        for stream, data in undecided.items():
            self._take(stream, self.mask.whole(data))
        self.flush()

    def _take(self, stream: str, data: bytes) -> None:
        if not data:
            return
        self._tails[stream] = (self._tails.get(stream, b"") + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        if stream == "out":
            self.out_bytes += len(data)
            self.captured += data[: self._capture - len(self.captured)]
        gathered = self._gathered.setdefault(stream, bytearray())
        gathered += data
        if len(gathered) >= GATHER_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self.flush)


def signal_name(number: int) -> str:
    """`SIGKILL`, with what mostly sends it."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"  # a real-time signal
    return f"{name} (out of memory?)" if number == signal.SIGKILL else name


def plural(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def died(exit: Exit, tail: str) -> ErrorInfo:
    """How a worker process ended that was not told to."""
    how = f"ended with exit code {exit.code}" if exit.signal is None else f"was ended by {signal_name(exit.signal)}"
    return ErrorInfo("WorkerDied", clean(f"the worker process {how}{tail}"), exit_code=exit.code, signal=exit.signal)

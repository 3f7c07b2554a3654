"""Starts commands from asyncio and tells how they ended. `shim.py` keeps the promise that nothing of them is left behind.

    async with Processes() as processes:
        process = await processes.spawn(["make", "test"], env=environ, cwd="/src", on_output=print)
        exit = await process.wait()

Everything here is readers on the running loop: no threads, no child watcher, nothing that blocks longer than a fork.
"""

from __future__ import annotations

import asyncio
import marshal
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import msgspec

from skep.errors import SkepError
from skep.node import shim

READ_BYTES = 64 * 1024
DRAIN_S = 1.0  # the longest wait for the end of the output once the tree is gone
DRAIN_READS = 16  # the kernel's largest pipe
STARTING = 32  # more at once would only queue in the zygote's socket
TRIES = 5  # a new zygote each time

OnOutput = Callable[[int, bytes], None]


class SpawnError(SkepError):
    """The command could not be started; the text names the program or the directory, and why."""


class Exit(msgspec.Struct, frozen=True):
    """How a command ended, and what its whole tree used."""

    code: int | None
    """None if a signal ended it."""
    signal: int | None
    """9 also when its shim was killed, and the command with it; the zygote ends the rest of that tree within milliseconds."""
    user_ms: int
    system_ms: int
    max_rss_bytes: int
    """Of the largest single process. At least the 10 MB or so of the shim's interpreter, from which the command was forked."""
    killed: int
    """Processes other than the command that had to be ended with it or after it."""


LOST = Exit(code=None, signal=9, user_ms=0, system_ms=0, max_rss_bytes=0, killed=0)


class Process:
    """A started command. Made by `Processes.spawn`."""

    def __init__(self, control: socket.socket, request: bytes, outputs: dict[int, int], on_output: OnOutput | None) -> None:
        self.pid = 0
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._unsent = b""
        self._heard = b""
        self._outputs = outputs  # pipe → stream
        self._on_output = on_output
        self._exit: Exit | None = None
        self._drain: asyncio.TimerHandle | None = None
        self.started: asyncio.Future[bool] = self._loop.create_future()  # False: its shim was lost before it said anything
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._hear)
        for pipe in self._outputs:
            os.set_blocking(pipe, False)
            self._loop.add_reader(pipe, self._read, pipe)
        self._say(request)

    async def wait(self) -> Exit:
        """Returns when the whole process tree is gone and its output was delivered. May be called any number of times."""
        return await asyncio.shield(self.ended)

    def stop(self, grace_ms: int = 1500) -> None:
        """SIGTERM to the whole tree, SIGKILL to what is left `grace_ms` later. A repeat can only bring the end nearer."""
        if self._exit is None:
            self._say(shim.LENGTH.pack(min(max(0, grace_ms), shim.KEEP - 1)))

    def keep(self, left_ms: int | None) -> None:
        """Ends the whole tree by itself unless it is told again within so long: also when this process stands still. None:
        not any more."""
        if self._exit is None:
            ms = shim.FOR_EVER if left_ms is None else min(max(0, left_ms), shim.FOR_EVER - 1)
            self._say(shim.LENGTH.pack(shim.KEEP + ms))

    def _say(self, message: bytes = b"") -> None:
        """Sends what the socket takes and the rest when it takes more: a request may be larger than its buffer."""
        self._unsent += message
        try:
            self._unsent = self._unsent[self._control.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._unsent = b""  # the shim has ended; `_hear` is about to learn how
        if self._unsent:
            self._loop.add_writer(self._control.fileno(), self._say)
        else:
            self._loop.remove_writer(self._control.fileno())

    def _hear(self) -> None:
        try:
            heard = self._control.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            heard = b""
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "started":
                self.pid = int(rest)
                self._answer(True)
            elif word == "refused":
                self._answer(SpawnError(rest))
            elif word == "ended":
                status, user_ms, system_ms, rss, killed = map(int, rest.split())
                code, number = (status, None) if status >= 0 else (None, -status)
                self._exit = Exit(code, number, user_ms, system_ms, rss, killed)
        if not heard or self._exit:
            self._over()

    def _answer(self, answer: bool | SpawnError) -> None:
        if self.started.done():
            return  # or cancelled: nobody asks any more
        if isinstance(answer, SpawnError):
            self.started.set_exception(answer)
        else:
            self.started.set_result(answer)

    def _over(self) -> None:
        """The tree is gone; what is in the pipes is still to be read."""
        self._answer(False)
        self._exit = self._exit or LOST
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())
        self._control.close()
        self._drain = self._loop.call_later(DRAIN_S if self._outputs else 0, self._expire)

    def _read(self, pipe: int) -> None:
        try:
            chunk = os.read(pipe, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        if not chunk:
            self._close(pipe)
            if self._exit and not self._outputs:
                self._finish()
        elif self._on_output:
            self._on_output(self._outputs[pipe], chunk)

    def _close(self, pipe: int) -> None:
        self._loop.remove_reader(pipe)
        os.close(pipe)
        del self._outputs[pipe]

    def _expire(self) -> None:
        """The last read, should the loop itself have been late. A pipe open after it is held by a stranger it was handed to."""
        for pipe in list(self._outputs):
            for _ in range(DRAIN_READS):
                if pipe in self._outputs:
                    self._read(pipe)
        for pipe in list(self._outputs):
            self._close(pipe)
        self._finish()

    def _finish(self) -> None:
        if self._drain:
            self._drain.cancel()
        if self._exit and not self.ended.done():
            self.ended.set_result(self._exit)


class Processes:
    """Every command of one supervisor. Use it as an async context manager; it belongs to one event loop."""

    def __init__(self) -> None:
        self._zygote: Zygote | None = None
        self._live: set[Process] = set()
        self._starting = asyncio.Semaphore(STARTING)
        self._closed = False

    async def __aenter__(self) -> Processes:
        self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def open(self) -> Zygote:
        """Warms up, so that the first spawn is as fast as the others; `spawn` does it by itself, and after a zygote's death."""
        if self._zygote is None or self._zygote.ended.done():
            self._zygote = Zygote()
        return self._zygote

    async def close(self, grace_ms: int = 1500) -> None:
        """Stops every live process, waits until all are gone, and refuses new ones."""
        self._closed = True
        for process in self._live:
            process.stop(grace_ms)
        while self._live:
            await asyncio.wait([process.ended for process in self._live])
        if self._zygote is not None:
            await self._zygote.close()

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        on_output: OnOutput | None = None,
        stdin: int | None = None,
        extra_fds: tuple[int, ...] = (),
    ) -> Process:
        """Starts `argv` (looked up in the PATH of `env`, which is all of its environment) in a session of its own.

        `on_output(stream, chunk)` gets standard output (1) and standard error (2) as they come, at most 64 KiB a call, the
        first perhaps before this returns. It is called in the loop: while it runs nothing is read, and the command waits at its
        full pipe. Without it output is thrown away. `stdin` is a descriptor to read from instead of /dev/null. Each of
        `extra_fds` (3 or above) has the same number in the command. They all stay the caller's to close.

        Raises `SpawnError`. If cancelled, what it started is stopped.
        """
        if not argv:
            raise SpawnError("no command given")
        if len(extra_fds) > shim.MAX_FDS - 3 or min(extra_fds, default=3) < 3:
            raise SpawnError(f"extra_fds must be at most {shim.MAX_FDS - 3} descriptors of 3 or above, not {extra_fds}")
        request = marshal.dumps(
            (
                [os.fsencode(word) for word in argv],
                {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
                None if cwd is None else os.fsencode(cwd),
                [0, 1, 2, *extra_fds],
            )
        )
        async with self._starting:
            for _ in range(TRIES):
                if self._closed:
                    raise SpawnError("closed: no new process is started")
                try:
                    process = await self._start(request, stdin, extra_fds, on_output)
                except OSError as error:
                    raise SpawnError(f"cannot start {argv[0]!r}: {error.strerror or error}") from error
                if process:
                    return process
        raise SpawnError(f"cannot start {argv[0]!r}: its launcher died {TRIES} times")

    async def _start(
        self, request: bytes, stdin: int | None, extra: tuple[int, ...], on_output: OnOutput | None
    ) -> Process | None:
        """One try. None if the zygote or the shim was killed before the command was started."""
        with ExitStack() as theirs, ExitStack() as ours:
            mine, control = socket.socketpair()
            ours.enter_context(mine)
            theirs.enter_context(control)
            null = os.open(os.devnull, os.O_RDWR)
            theirs.callback(os.close, null)
            fds = [null if stdin is None else stdin, null, null, *extra]
            outputs: dict[int, int] = {}
            for stream in (1, 2) if on_output else ():
                pipe, fds[stream] = os.pipe()
                ours.callback(os.close, pipe)
                theirs.callback(os.close, fds[stream])
                outputs[pipe] = stream
            if not self.open().send(control):
                return None
            length = shim.LENGTH.pack(len(request))
            try:
                socket.send_fds(mine, [length], fds)
            except BrokenPipeError:
                return None
            ours.pop_all()  # from here on they are the process's
        process = Process(mine, request, outputs, on_output)
        self._live.add(process)
        process.ended.add_done_callback(lambda _: self._live.discard(process))
        try:
            started = await process.started
        except asyncio.CancelledError:
            process.stop(0)
            raise
        return process if started else None


class Zygote:
    """The warm interpreter that forks a shim for each command."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", shim.__file__, str(theirs.fileno())]
            null = subprocess.DEVNULL
            self._popen = subprocess.Popen(
                command, stdin=null, stdout=null, pass_fds=(theirs.fileno(),), start_new_session=True
            )
        self._socket.setblocking(False)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._socket.fileno(), self._end)

    def send(self, control: socket.socket) -> bool:
        """Hands over a shim's end of a control socket. False if the zygote is gone."""
        try:
            socket.send_fds(self._socket, [b"+"], [control.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            self._end()
            return False
        return True

    async def close(self) -> None:
        if not self.ended.done():
            self._socket.shutdown(socket.SHUT_WR)
            await asyncio.wait([self.ended], timeout=DRAIN_S)
        if not self.ended.done():
            self._popen.kill()  # somebody stopped it, or it still hunts what a killed shim left
            await asyncio.wait([self.ended])

    def _end(self) -> None:
        """Its side of the socket closed, and it never writes: it is dead, or within microseconds of it."""
        if not self.ended.done():
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._popen.wait()
            self.ended.set_result(None)

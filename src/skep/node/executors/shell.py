"""Shell tasks: a text runs as `/bin/sh -c`, a list as a program with its arguments and no shell in between.

The command finds in its environment SKEP_RUN, SKEP_TASK, SKEP_ATTEMPT, SKEP_TOKEN and two files that are removed after it:
SKEP_OUTPUT (its result, as JSON; without it the result is what it printed) and SKEP_CHECKPOINT (JSON for the task's next
attempt; write another file and `mv` it there, so that it is never seen half written).
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from skep.config import without_secrets
from skep.errors import SkepError
from skep.model.node import Call, ErrorInfo
from skep.node.attempt import Attempt, Host
from skep.node.context import SAVE_LIMIT
from skep.node.executors.output import Log, plural, signal_name
from skep.node.functions import clean, error_info
from skep.node.processes import Exit, Process, Processes, SpawnError
from skep.node.secrets import Failed, Mask, fill_secrets

GRACE_MS = 1_000
"""Between SIGTERM and SIGKILL: within 2 s nothing may be left, however busy the machine is."""
CAPTURE_BYTES = 64 * 1024
"""Of standard output, when it is the result."""
MAX_RESULT = 64 * 1024 * 1024
"""Bytes of $SKEP_OUTPUT."""
LOOK_S = 1.0
SAVE_S = 5.0
"""How long an outcome waits for the last checkpoint: a server that is away must not hold it back."""
STOPPED = ErrorInfo("Cancelled", "stopped")


class CheckpointFile:
    """$SKEP_CHECKPOINT of one attempt."""

    def __init__(self, path: Path, host: Host, attempt: Attempt, log: Log) -> None:
        self._path, self._host, self._attempt, self._log = path, host, attempt, log
        self._seen: tuple[int, ...] = ()
        self._saving: asyncio.Task[None] | None = None
        self._trouble = ""

    async def fill(self) -> None:
        """Puts what earlier attempts left into the file. Raises what the host raises."""
        data = await self._host.call(self._attempt, "load_checkpoint") if self._attempt.grant.attempt > 1 else None
        self._path.write_bytes(data if isinstance(data, bytes) else b"")
        self._seen = self._look()

    def poll(self) -> None:
        """Saves the file if it was changed."""
        if (self._saving is None or self._saving.done()) and self._look() != self._seen:
            self._saving = asyncio.create_task(self._save())

    async def finish(self) -> None:
        """Saves the last change; says in the log what could not be saved."""
        try:
            async with asyncio.timeout(SAVE_S):
                if self._saving is not None:
                    await self._saving
                if self._look() != self._seen:
                    await self._save()
        except TimeoutError:
            self._trouble = f"no answer for {SAVE_S:g} s"
        if self._trouble:
            self._log.note(f"the checkpoint was not saved: {self._trouble}")

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    async def _save(self) -> None:
        seen = self._look()
        self._trouble = ""
        try:
            data = read_json(self._path, "$SKEP_CHECKPOINT", SAVE_LIMIT)
            if data:  # empty: it is just being written
                await self._host.call(self._attempt, "save_checkpoint", data)
            self._seen = seen
        except Failed as failed:  # perhaps half written; then it changes once more
            self._trouble, self._seen = failed.info.message, seen
        except SkepError as error:  # seen stays what it was: the next look tries again
            self._trouble = str(error)


def read_json(path: Path, what: str, most: int) -> bytes:
    """The JSON in a file that a command wrote; empty when there is none. Raises Failed (`Result`)."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # without waiting for the writer of a FIFO
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Failed(ErrorInfo("Result", f"{what} is no longer a file"))
            if found.st_size > most:
                problem = f"{what} may have {most // 2**20} MiB, it has {found.st_size / 2**20:.1f}: write the path of a file"
                raise Failed(ErrorInfo("Result", problem))
            data = file.read(most).strip()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise Failed(ErrorInfo("Result", f"cannot read {what}: {error.strerror}")) from None
    try:
        if data:
            msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Failed(ErrorInfo("Result", f"{what} is not JSON: {error}")) from None
    return data


class _Shell:
    """One attempt at work."""

    __slots__ = ("attempt", "checkpoint", "kept", "mask", "process", "stopping", "task")

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.mask = Mask()
        self.process: Process | None = None
        self.checkpoint: CheckpointFile | None = None
        self.stopping = False
        self.kept = False
        self.task: asyncio.Task[None] | None = None


class ShellExecutor:
    """Runs shell tasks. `base` is where a relative `cwd` starts; `secrets` are the node's own, by name."""

    name = "run"

    def __init__(self, processes: Processes, base: Path, secrets: Mapping[str, str] | None = None) -> None:
        self._processes = processes
        self._base = base
        self._secrets = secrets or {}
        self._shells: set[_Shell] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, host: Host) -> None:
        self._host = host
        self._processes.open()

    async def close(self) -> None:
        tasks = [shell.task for shell in self._shells if shell.task]
        for shell in list(self._shells):
            self.stop(shell.attempt)
        if tasks:
            await asyncio.wait(tasks)
        if self._timer is not None:
            self._timer.cancel()

    def start(self, attempt: Attempt) -> None:
        attempt.work = shell = _Shell(attempt)
        self._shells.add(shell)
        shell.task = asyncio.create_task(self._run(shell))
        shell.task.add_done_callback(lambda task: self._over(shell, task))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def stop(self, attempt: Attempt) -> None:
        shell = attempt.work
        if not isinstance(shell, _Shell) or attempt.ended or shell.task is None:
            return
        if shell.process is None:
            shell.task.cancel()
        elif not shell.process.ended.done():
            shell.stopping = True
            shell.process.stop(GRACE_MS)

    def keep(self) -> None:
        for shell in self._shells:
            self._keep(shell)

    def _keep(self, shell: _Shell) -> None:
        left_ms = shell.attempt.left_ms
        if shell.process is not None and (left_ms is not None or shell.kept):
            shell.kept = left_ms is not None
            shell.process.keep(left_ms)

    def _look(self) -> None:
        for shell in self._shells:
            if shell.checkpoint is not None:
                shell.checkpoint.poll()
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look) if self._shells else None

    async def _run(self, shell: _Shell) -> None:
        attempt = shell.attempt
        try:
            output = await self._work(shell)
        except Failed as failed:
            attempt.fail(shell.mask.info(failed.info))
        except Exception as error:  # noqa: BLE001  whatever goes wrong is the attempt's failure
            attempt.fail(shell.mask.info(error_info(error)))
        else:
            attempt.succeed(output)

    def _over(self, shell: _Shell, task: asyncio.Task[None]) -> None:
        self._shells.discard(shell)
        if task.cancelled():  # perhaps before it did anything at all
            shell.attempt.fail(STOPPED)

    async def _work(self, shell: _Shell) -> bytes:
        """The attempt's output. Raises Failed."""
        call, shell.mask = fill_secrets(shell.attempt.call, self._secrets)
        log = Log(self._host, shell.attempt, shell.mask, CAPTURE_BYTES + 1024)  # room for what is stripped
        folder = Path(mkdtemp(prefix="skep-"))
        try:
            return await self._command(shell, call, log, folder)
        finally:
            log.close()
            # In a thread: the command may have filled it, and a removal can take milliseconds. What cannot be removed stays.
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _command(self, shell: _Shell, call: Call, log: Log, folder: Path) -> bytes:
        result = folder / "output.json"
        result.touch()
        checkpoint = CheckpointFile(folder / "checkpoint.json", self._host, shell.attempt, log)
        await checkpoint.fill()
        shell.process = process = await self._spawn(shell.attempt, call, log, folder)
        self._keep(shell)
        shell.checkpoint = checkpoint
        exit = await process.wait()
        shell.checkpoint = None
        log.close()
        await checkpoint.finish()
        if shell.stopping:
            raise Failed(STOPPED)
        if exit.killed:
            log.note(f"ended {plural(exit.killed, 'process', 'processes')} that the command had left behind")
        if exit.code != 0:
            raise Failed(_failure(exit, log.tail()))
        if data := read_json(result, "$SKEP_OUTPUT", MAX_RESULT):
            return shell.mask.json(data)
        return _printed(log)

    async def _spawn(self, attempt: Attempt, call: Call, log: Log, folder: Path) -> Process:
        grant = attempt.grant
        env = {
            **without_secrets(os.environ),
            **(call.env or {}),
            "SKEP_RUN": grant.run,
            "SKEP_TASK": grant.name,
            "SKEP_ATTEMPT": str(grant.attempt),
            "SKEP_TOKEN": str(grant.token),
            "SKEP_OUTPUT": str(folder / "output.json"),
            "SKEP_CHECKPOINT": str(folder / "checkpoint.json"),
        }
        argv = ("/bin/sh", "-c", call.call) if isinstance(call.call, str) else tuple(call.call)
        base = Path(grant.base) if grant.base else self._base
        cwd = base / call.cwd if call.cwd else base
        try:
            return await self._processes.spawn(
                argv, env=env, cwd=str(cwd), on_output=lambda stream, data: log.write("out" if stream == 1 else "err", data)
            )
        except SpawnError as error:
            missing = any(os.strerror(number) in str(error) for number in (errno.ENOENT, errno.ENOTDIR))
            told = _no_folder(cwd, bool(grant.base)) if missing else ""
            raise Failed(ErrorInfo("NotFound" if missing else "SpawnError", told or clean(str(error)))) from None


def _no_folder(cwd: Path, submitted: bool) -> str:
    """Says that the directory is not there; empty when it is."""
    if cwd.is_dir():
        return ""
    why = "; the run was submitted from another machine: make it here too, or submit it with --server" if submitted else ""
    return f"there is no directory {clean(str(cwd))} on this node{why}"


def _failure(exit: Exit, tail: str) -> ErrorInfo:
    if exit.signal is None:
        return ErrorInfo("ExitCode", clean(f"exit code {exit.code}{tail}"), exit_code=exit.code)
    return ErrorInfo("Signal", clean(f"ended by {signal_name(exit.signal)}{tail}"), signal=exit.signal)


def _printed(log: Log) -> bytes:
    data = bytes(log.captured).strip()
    if len(data) > CAPTURE_BYTES or (len(log.captured) < log.out_bytes):
        log.note(f"the output is cut to {CAPTURE_BYTES // 1024} KiB of {log.out_bytes} bytes: write more to $SKEP_OUTPUT")
        data = data[:CAPTURE_BYTES]
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data)  # without the half of a character at the cut
    return msgspec.json.encode(clean(text))

"""Runs commands so that nothing of them outlives its time. A script of the standard library only, started by `processes.py`:

    python -I -S shim.py FD          FD: an AF_UNIX stream socket to the owner

Three kinds of process take part. The *owner* (a supervisor) holds one socket to the *zygote*, a warm interpreter that does
nothing but fork, and one control socket to each *shim*, the fork that looks after one command:

    owner → zygote    one byte, with the shim's end of a new control socket attached
    owner → shim      length and marshalled (argv, env, cwd, fd numbers), with those fds attached; later words, any number
                      (see `Guard.obey`)
    shim → owner      `refused REASON`, or `started PID` and, when the whole tree is gone, `ended …` (see `Guard.report`)

A shim is a child subreaper: whatever its command starts stays below it in the process tree, sessions and double forks
notwithstanding, so "no child left" means "nothing left". It ends the tree when the command ends, when the owner says so, and
when the owner's end of the control socket closes, which the kernel sees to however the owner dies. A killed zygote disturbs no
running command. A killed shim's command dies with it (PR_SET_PDEATHSIG), and the rest of that tree falls to the zygote, which
is a subreaper too.

Without Linux's prctl and /proc (macOS) only the command's process group is ended: a process that left it survives.
"""

import fcntl
import gc
import marshal
import math
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Collection

try:
    import ctypes

    LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
except (ImportError, OSError):
    LIBC = None

LEFTOVER_S = 0.2  # what the command left behind had its time: a short grace
ORPHAN_S = 0.5  # the owner is gone, and with it the lease: all must be over in 2 s
PAUSE_S = 0.01  # between two rounds of SIGKILL
GIVE_UP_S = 10.0  # what SIGKILL did not end by then is stuck in the kernel, or not ours to kill
MAX_FDS = 64
LENGTH = struct.Struct("!I")  # of a request in bytes; a grace time in ms, or one to keep to, marked by KEEP
KEEP = 0x8000_0000
FOR_EVER = KEEP - 1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Refused(Exception):
    """The command could not be started; the text names the program or the directory."""


def prctl(option: int, value: int) -> None:
    if LIBC is not None:
        LIBC.prctl(option, value, 0, 0, 0)


def wakeup() -> int:
    """A pipe end that becomes readable when a child ends, so that one `poll` waits for children and sockets alike."""
    end, signalled = os.pipe()
    os.set_blocking(end, False)
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    return end


def default_signals() -> None:
    """Every command starts with default dispositions and nothing blocked, whatever the owner or Python itself had set.

    The zygote and the shims outlive a signal sent to a whole service (the owner hears it too, and decides) by an empty handler:
    unlike SIG_IGN, exec sets it back by itself.
    """
    own = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD}
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, (lambda number, frame: None) if number in own else signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # SIGKILL, SIGSTOP and the C library's own
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def below(root: int, spare: Collection[int] = ()) -> dict[int, int]:
    """Every living process below `root`, as pid → process group; without those in `spare` and what is below them.

    Each call walks anew from `root` (its own pid or a living child's), so a reused pid elsewhere is never mistaken for ours.
    """
    children: dict[int, list[tuple[int, int, bool]]] = {}
    for name in os.listdir("/proc") if LIBC is not None else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as stat:
                    state, parent, group, _ = stat.read(512).rpartition(b") ")[2].split(None, 3)  # the name may hold a ")"
            except OSError:
                continue  # ended meanwhile
            children.setdefault(int(parent), []).append((int(name), int(group), state not in b"ZX"))
    found: dict[int, int] = {}
    pending = [root]
    while pending:
        for pid, group, living in children.get(pending.pop(), ()):
            if pid not in spare:
                pending.append(pid)
                if living:
                    found[pid] = group
    return found


def send(groups: Collection[int], *numbers: int) -> None:
    """Signals whole groups: unlike a list of pids this cannot miss a child forked meanwhile.

    A group below a shim holds nothing foreign, because one cannot join a group of another session.
    """
    for number in numbers:
        for group in set(groups) - {0, 1, os.getpgrp()}:
            try:
                os.killpg(group, number)
            except OSError:
                pass  # ended meanwhile, or not ours to signal (setuid)


def execute(argv: list[bytes], env: dict[bytes, bytes], cwd: bytes | None, fds: dict[int, int], failure: int) -> None:
    """In the fork: becomes the command. `fds` says which number the command knows each descriptor by."""
    doing = program = f"start {os.fsdecode(argv[0])!r}"
    try:
        os.setsid()
        beyond = max(fds) + 1  # out of the way first, so that no dup2 lands on a descriptor still needed
        failure = fcntl.fcntl(failure, fcntl.F_DUPFD_CLOEXEC, beyond)
        moved = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, beyond) for number, fd in fds.items()}
        for number, fd in moved.items():
            os.dup2(fd, number)
        if cwd is not None:
            doing = f"enter directory {os.fsdecode(cwd)!r}"
            os.chdir(cwd)
            doing = program
        os.execvpe(argv[0], argv, env)
    except Exception as error:  # noqa: BLE001 - OSError, a NUL in an argument, a bad name in env: all are the asker's to know
        reason = error.strerror if isinstance(error, OSError) else str(error)
        os.write(failure, f"cannot {doing}: {reason}".encode(errors="replace"))


def launch(argv: list[bytes], env: dict[bytes, bytes], cwd: bytes | None, fds: dict[int, int]) -> int:
    """Starts the command in a session of its own. Returns its pid once it runs; raises `Refused`."""
    failed, failure = os.pipe()
    shim = os.getpid()
    command = os.fork()
    if command == 0:
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == shim:  # else it died before prctl, and nobody would tell us
                execute(argv, env, cwd, fds, failure)
        finally:
            os._exit(127)
    os.close(failure)
    with open(failed, "rb") as pipe:
        reason = pipe.read()  # empty when exec closed the other end
    if reason:
        os.waitpid(command, 0)
        raise Refused(reason.decode())
    return command


class Guard:
    """A running command and all that is below it."""

    def __init__(self, command: int) -> None:
        self.command = command
        self.status: int | None = None
        self.killed: set[int] = set()
        self.user_s = self.system_s = 0.0
        self.rss = 0
        self.kill_at = math.inf
        self.keep_until = math.inf  # if the owner has said nothing more by then, it stands still, and others get what we hold

    def reap(self) -> bool:
        """Takes leave of every ended child; False when nothing is left below."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return LIBC is None and self.group_lives()
            if pid == 0:
                return True
            if pid == self.command:
                self.status = status
            self.user_s += usage.ru_utime
            self.system_s += usage.ru_stime
            self.rss = max(self.rss, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))

    def group_lives(self) -> bool:
        try:
            os.killpg(self.command, 0)
        except OSError:
            return False
        return True

    def signal(self, *numbers: int) -> None:
        found = below(os.getpid()) if LIBC is not None else {self.command: self.command}
        self.killed.update(found)
        send(found.values(), *numbers)

    def end(self, grace_s: float) -> None:
        """Asks all to end and sets the time by which they must have; a repeat can only bring that nearer."""
        if self.kill_at == math.inf:
            self.signal(signal.SIGTERM, signal.SIGCONT)  # a stopped process would not see its SIGTERM
        self.kill_at = min(self.kill_at, time.monotonic() + grace_s)

    def watch(self, control: socket.socket, wake: int) -> None:
        """Returns when the whole tree is gone."""
        poller = select.poll()
        poller.register(control, select.POLLIN)
        poller.register(wake, select.POLLIN)
        while self.reap():
            if self.status is not None:
                self.end(LEFTOVER_S)
            if self.keep_until <= time.monotonic():
                self.keep_until = math.inf
                self.end(ORPHAN_S)
            left_s = min(self.kill_at, self.keep_until) - time.monotonic()
            if left_s <= -GIVE_UP_S:
                return
            if left_s <= 0 and self.kill_at < math.inf:
                self.signal(signal.SIGSTOP, signal.SIGKILL)  # frozen first, so that nobody answers another's death by a fork
            for fd, _ in poller.poll(None if left_s == math.inf else 1000 * max(left_s, PAUSE_S)):
                if fd == wake:
                    os.read(wake, 4096)
                elif len(grace := receive(control, LENGTH.size)) == LENGTH.size:
                    self.obey(LENGTH.unpack(grace)[0])
                else:
                    poller.unregister(control)
                    self.end(ORPHAN_S)

    def obey(self, word: int) -> None:
        """A word of the owner's: end now, with this grace, or by yourself in so long unless you hear from me again."""
        if word < KEEP:
            self.end(word / 1000)
        elif self.kill_at == math.inf:
            ms = word - KEEP
            self.keep_until = math.inf if ms == FOR_EVER else time.monotonic() + ms / 1000

    def report(self) -> str:
        """`ended STATUS USER_MS SYSTEM_MS MAX_RSS_BYTES KILLED`; STATUS is an exit code, or a signal with a minus."""
        code = -signal.SIGKILL if self.status is None else os.waitstatus_to_exitcode(self.status)
        killed = len(self.killed - {self.command})
        return f"ended {code} {self.user_s * 1000:.0f} {self.system_s * 1000:.0f} {self.rss} {killed}"


def receive(control: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; fewer when the other side is gone."""
    try:
        return control.recv(size, socket.MSG_WAITALL)
    except OSError:
        return b""


def receive_fds(control: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """The first bytes of a message and the descriptors with it; nothing when the other side is gone."""
    try:
        head, fds, _, _ = socket.recv_fds(control, size, most)
    except OSError:
        return b"", []
    for fd in fds:
        os.set_inheritable(fd, False)  # a command has only what `execute` gives it
    return head, fds


def tell(control: socket.socket, text: str) -> None:
    try:
        control.sendall(text.replace("\n", " ").encode() + b"\n")
    except OSError:
        pass  # the owner is gone and will not ask


def shim(control: socket.socket) -> None:
    """The life of one shim, from the request to the report."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake = wakeup()
    head, passed = receive_fds(control, LENGTH.size, MAX_FDS)
    if len(head) < LENGTH.size:
        return  # the owner died before it had asked for anything
    size: int = LENGTH.unpack(head)[0]
    body = b""
    while len(body) < size:
        part = receive(control, min(size - len(body), 1 << 20))
        if not part:
            return
        body += part
    argv, env, cwd, numbers = marshal.loads(body)
    try:
        command = launch(argv, env, cwd, dict(zip(numbers, passed, strict=True)))
    except (Refused, OSError) as error:
        tell(control, f"refused {error}")
        return
    for fd in passed:
        os.close(fd)  # the pipes end with the command, not with us
    tell(control, f"started {command}")
    guard = Guard(command)
    guard.watch(control, wake)
    tell(control, guard.report())


def zygote(owner: socket.socket) -> None:
    """Forks a shim for each control socket that arrives, until the owner's end closes; ends what a killed shim left behind."""
    default_signals()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.get_exec_path()  # it imports lazily: once here rather than in every fork
    gc.disable()  # nothing here makes cycles, and a collection in a fork would copy every page
    wake = wakeup()
    shims: set[int] = set()
    sweep_until = 0.0
    closed = False
    poller = select.poll()
    poller.register(owner, select.POLLIN)
    poller.register(wake, select.POLLIN)
    while sweep_until or not closed:
        ready = dict(poller.poll(1000 * PAUSE_S if sweep_until else None))
        if wake in ready:
            os.read(wake, 4096)
        for pid, status in ended():
            if pid in shims and status != 0:  # killed: its orphans are our children now
                sweep_until = time.monotonic() + GIVE_UP_S
            shims.discard(pid)
        if sweep_until:
            orphans = below(os.getpid(), spare=shims)
            send(orphans.values(), signal.SIGSTOP, signal.SIGKILL)
            if not orphans or time.monotonic() > sweep_until:
                sweep_until = 0.0
        if owner.fileno() in ready:
            byte, passed = receive_fds(owner, 1, 1)
            for fd in passed:
                shims.add(fork(fd, owner, wake))
            if not byte:
                closed = True
                poller.unregister(owner)


def ended() -> list[tuple[int, int]]:
    """The children that ended since, as (pid, wait status)."""
    gone: list[tuple[int, int]] = []
    try:
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            gone.append(child)
    except ChildProcessError:
        pass  # none left
    return gone


def fork(fd: int, owner: socket.socket, wake: int) -> int:
    """A new shim for the control socket `fd`. Returns its pid; 0 when there could be none, and the owner has been told."""
    with socket.socket(fileno=fd) as control:
        try:
            pid = os.fork()
        except OSError as error:
            tell(control, f"refused cannot fork: {error.strerror}")
            return 0
        if pid:
            return pid
        try:
            owner.close()  # else the owner would not notice the zygote's end
            os.close(wake)
            os.close(signal.set_wakeup_fd(-1))
            shim(control)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - unwound into the zygote's loop this would be a second zygote
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)


if __name__ == "__main__":
    zygote(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)

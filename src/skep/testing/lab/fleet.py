"""Speed of a fleet: a server with Redis and PostgreSQL as processes of their own, with their own settings, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from skep.model.spec import TaskSpec, WorkflowSpec
from skep.model.state import RunState
from skep.testing.lab.figures import LOCK, NOOP, STATE, Figure, workflow
from skep.testing.servers import PostgresServer, RedisServer
from skep.testing.up import Up

FIGURES: Final[dict[str, list[Figure]]] = {
    "fleet": [Figure("no-op tasks, Redis + PostgreSQL, one server, one node", "/s", 5_000, 9_000, True)],
    "fleet-sqlite": [Figure("no-op tasks, Redis + SQLite, one server, one node", "/s", 6_000, 11_000, True)],
    "fleet-node": [Figure("no-op tasks, a node over TCP, memory engine + SQLite", "/s", 8_000, 12_000, True)],
    "fleet-form": [Figure("formation: first to tenth node ready", "s", 6, 3)],
    "fleet-lost": [
        Figure("kill -9 of a node to its tasks running elsewhere, the slowest of 10", "s", 3, 1.5),
        Figure("a node that stands still (SIGSTOP): the same", "s", 14, 12),
    ],
    "fleet-lock": [
        Figure("a lock inside a task, Redis + PostgreSQL, p99", "ms", 10, 3),
        Figure("an operation on shared state, Redis + PostgreSQL, p99", "ms", 10, 3),
    ],
    "fleet-latency": [
        Figure("one task, submit to result, idle, Redis + PostgreSQL, p50", "ms", 5, 3),
        Figure("one task, submit to result, idle, Redis + PostgreSQL, p99", "ms", 15, 8),
    ],
    "fleet-chain": [
        Figure("chain of 40 tasks, Redis + PostgreSQL", "ms", 110, 60),
        Figure("1 → 1,000 → 1, Redis + PostgreSQL", "ms", 340, 200),
    ],
    "fleet-open": [
        Figure("opening with 100,000 unfinished tasks, to first task placed", "s", 10, 5),
        Figure("longest script with 100,000 tasks", "ms", 10, 5),
        Figure("Redis memory per waiting task", "B", 800, 400),
    ],
}
NODE: Final = ("--node", f"bench:cpu;slots=256;cpu={os.cpu_count() or 1}")


@contextmanager
def fleet(folder: Path, *, postgres: bool = True) -> Iterator[tuple[Up, RedisServer]]:
    """One server that is up, and its Redis."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        options = ["--engine", redis.url]
        if postgres:
            options += ["--record", stack.enter_context(PostgresServer()).url]
        up = stack.enter_context(Up(folder / "home", *NODE, *options))
        up.start()
        up.until(up.client.nodes.list, "the node is there")
        yield up, redis


@contextmanager
def joined(up: Up, count: int, slots: int, *options: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many nodes over TCP, in processes of their own; they may still be on their way."""
    url = up.client.insight.status().url
    assert url is not None
    nodes = []
    with (up.home.parent / "nodes.log").open("ab") as log:
        for at in range(count):
            where = ("--server", url, "--name", f"far-{at}", "--slots", str(slots), "--data", str(up.home.parent / f"far-{at}"))
            command = [sys.executable, "-m", "skep", "node", *where, *options]
            nodes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=up.home.parent))
    try:
        yield nodes
    finally:
        for node in nodes:
            node.send_signal(signal.SIGCONT)
            node.kill()
            node.wait()


def _timed(up: Up, spec: WorkflowSpec) -> float:
    began = time.perf_counter()
    run = up.client.runs.submit(spec)
    ended = up.client.runs.wait(run.id)
    assert ended.state == RunState.SUCCEEDED.label
    return time.perf_counter() - began


def throughput(folder: Path, *, postgres: bool = True) -> list[float]:
    count = 20_000
    with fleet(folder, postgres=postgres) as (up, _):
        _timed(up, workflow([()] * 500))
        return [count / _timed(up, workflow([()] * count))]


def far(folder: Path) -> list[float]:
    count = 20_000
    with Up(folder / "home", "--no-node", "--listen", "127.0.0.1:0") as up:
        up.start()
        with joined(up, 1, 256, "--app", NOOP.partition(":")[0]):
            up.until(up.client.nodes.list, "the node is there")
            _timed(up, workflow([()] * 500))
            return [count / _timed(up, workflow([()] * count))]


def formation(folder: Path) -> list[float]:
    with Up(folder / "home", "--no-node", "--listen", "127.0.0.1:0") as up:
        up.start()
        with joined(up, 10, 1):
            up.until(up.client.nodes.list, "the first node is there", 60)
            began = time.perf_counter()
            up.until(lambda: len(up.client.nodes.list()) == 10, "all nodes are there", 60)
            return [time.perf_counter() - began]


def lost(folder: Path) -> list[float]:
    """Two nodes with ten tasks each; one of them goes, and its tasks begin on the other one."""
    return [_lost(folder / how.name, how) for how in (signal.SIGKILL, signal.SIGSTOP)]


def _lost(folder: Path, how: signal.Signals) -> float:
    folder.mkdir()
    task = TaskSpec(name="hold", executor="run", call="sleep 60")
    spec = WorkflowSpec(name="hold", tasks=tuple(msgspec.structs.replace(task, name=f"hold-{at}") for at in range(20)))
    with Up(folder / "home", "--no-node", "--listen", "127.0.0.1:0") as up:
        up.start()
        with joined(up, 2, 20, "--cpu", "20") as nodes:
            up.until(lambda: len(up.client.nodes.list()) == 2, "both nodes are there", 60)
            run = up.client.runs.submit(spec)
            up.until(lambda: up.client.queue.stats().running == 20, "all run")
            began = time.perf_counter()
            nodes[0].send_signal(how)
            up.until(lambda: [n.running for n in up.client.nodes.list() if n.id == "far-1"] == [20], "the other has all", 30)
            elapsed = time.perf_counter() - began
            up.client.runs.cancel(run.id)
    return elapsed


def locks(folder: Path) -> list[float]:
    operations = {"lock": LOCK, "state": STATE}
    tasks = tuple(TaskSpec(name=name, executor="python", call=call) for name, call in operations.items())
    with fleet(folder) as (up, _):
        run = up.client.runs.submit(WorkflowSpec(name="bench", tasks=tasks))
        assert up.client.runs.wait(run.id).state == RunState.SUCCEEDED.label
        return [float(task.output) for task in up.client.runs.view(run.id).tasks]


def latency(folder: Path) -> list[float]:
    spec = workflow([()])
    times = []
    with fleet(folder) as (up, _):
        for _turn in range(350):
            began = time.perf_counter()
            ended = up.client.runs.submit(spec, wait_s=10)
            times.append((time.perf_counter() - began) * 1000)
            assert ended.state == RunState.SUCCEEDED.label
    times = sorted(times[50:])
    return [times[len(times) // 2], times[len(times) * 99 // 100]]


def chain(folder: Path) -> list[float]:
    line = workflow([(f"t{at - 1}",) if at else () for at in range(40)])
    middle = tuple(f"t{at}" for at in range(1, 1_001))
    fan = workflow([(), *[("t0",)] * 1_000, middle])
    with fleet(folder) as (up, _):
        return [statistics.median([_timed(up, spec) * 1000 for _ in range(8)][3:]) for spec in (line, fan)]


def opening(folder: Path) -> list[float]:
    """Ten runs of 10,000 tasks, none of them begun, when Redis is emptied and the server started again. Before, 99,999 of
    them wait for one."""
    with fleet(folder) as (up, redis):
        up.client.queue.pause()
        empty = _asked(redis, b"INFO", b"memory")["used_memory"]
        _asked(redis, b"CONFIG", b"SET", b"slowlog-log-slower-than", b"500")
        run = up.client.runs.submit(workflow([(), *[("t0",)] * 99_999]))
        up.until(lambda: up.client.queue.stats().waiting == 99_999, "all tasks wait", 120)
        up.until(lambda: not up.client.insight.status().backlog, "all of it is recorded", 60)
        time.sleep(0.5)  # the stream is trimmed
        each = (_asked(redis, b"INFO", b"memory")["used_memory"] - empty) / 100_000
        up.client.queue.resume()
        up.client.runs.wait(run.id)
        slow = _slowest_ms(redis)
        up.client.queue.pause()
        for _turn in range(10):
            up.client.runs.submit(workflow([()] * 10_000))
        up.until(lambda: up.client.queue.stats().ready == 100_000, "all tasks are ready", 120)
        up.until(lambda: not up.client.insight.status().backlog, "all of it is recorded", 60)
        up.kill()
        _asked(redis, b"FLUSHALL")
        began = time.perf_counter()
        up.start()
        up.client.queue.resume()
        up.until(lambda: 0 < up.client.queue.stats().live_tasks < 100_000 or up.client.queue.stats().running, "it begins", 120)
        return [time.perf_counter() - began, slow, each]


def _asked(redis: RedisServer, *words: bytes) -> dict[str, Any]:
    """What Redis answers to a command; of INFO the numbers by name."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=30) as connection:
        connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        data = connection.recv(1 << 20)
    lines = [line.partition(":") for line in data.decode(errors="replace").splitlines() if ":" in line]
    return {name: int(value) for name, _, value in lines if value.isdecimal()}


def _slowest_ms(redis: RedisServer) -> float:
    """Of the last 1,024 slow commands, in ms."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=30) as connection:
        connection.sendall(b"SLOWLOG GET 1024\r\n")
        reader = connection.makefile("rb")
        return max((entry[2] for entry in _parsed(reader)), default=0) / 1000


def _parsed(reader: Any) -> Any:
    """One value of the protocol of Redis."""
    line = reader.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"*":
        return [_parsed(reader) for _ in range(int(rest))]
    if kind == b"$":
        return reader.read(int(rest) + 2)[:-2]
    return int(rest) if kind == b":" else rest


BENCHES: Final[dict[str, Callable[[Path], list[float]]]] = {
    "fleet": throughput,
    "fleet-sqlite": lambda folder: throughput(folder, postgres=False),
    "fleet-node": far,
    "fleet-form": formation,
    "fleet-lost": lost,
    "fleet-lock": locks,
    "fleet-latency": latency,
    "fleet-chain": chain,
    "fleet-open": opening,
}


def once(name: str, folder: Path) -> list[float]:
    """One run."""
    return BENCHES[name](folder)

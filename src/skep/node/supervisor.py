"""The process of a node: of one that a server started and that outlives it, or, in the foreground, of `skep node`.

    python -m skep.node.supervisor --home DIR --id NAME [--socket PATH] [--config FILE.json]

It never runs code of users: that is for its workers and for commands, all below shims that end with it. SIGTERM (or SIGINT):
it finishes what it has and takes nothing new; a second one: it stops, and what it has is done elsewhere; a third: it is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec
import uvloop

from skep.clock import SystemClock
from skep.config import secrets_from, socket_path
from skep.errors import SkepError
from skep.model.node import NodeInfo
from skep.node.detached import Listed, cap_log, take_name
from skep.node.dial import Dial, dial_unix
from skep.node.equip import equip
from skep.node.node import Node
from skep.node.probe import node_info, probe
from skep.node.processes import Processes
from skep.node.remote import RemoteLink
from skep.process import tune
from skep.version import VERSION

log = logging.getLogger("skep.node.supervisor")  # not `__main__`

IDLE_S: Final = 60.0
"""Without a server and without work it ends after so long; told to end, it waits so long for one to take its outcomes."""
LOOK_S: Final = 0.25
LOG_S: Final = 30.0
"""Between two looks at the size of the log."""


class Supervisor:
    """One node, and what it needs to be one."""

    def __init__(
        self, home: Path, info: NodeInfo, dial: Dial, base: Path, secrets: Mapping[str, str], idle_s: float = IDLE_S
    ) -> None:
        """`base`: where work starts that names no other place. `idle_s`: without a server and without work it ends after so
        long; infinite: never."""
        self._home = home
        self._link = RemoteLink(dial)
        self._processes = Processes()
        executors = equip(info, self._processes, base, secrets)
        self.node = self._link.holder = Node(info, self._link, executors, SystemClock())
        self._idle_s = idle_s
        self._asked = 0
        """How often it was told to end."""
        self._stirred = asyncio.Event()

    async def run(self) -> str:
        """Until it is told to end, is not wanted, or has nothing to do and nobody to ask. Answers why it is not wanted."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end)
        opening = asyncio.create_task(self.node.open())
        try:
            await self._stay(opening)
        finally:
            if not opening.done():
                opening.cancel()
                await asyncio.wait([opening])
            if opening.cancelled() or opening.exception() is not None:
                await self._link.close()
            await self.node.close(give_back=True)
            await self._processes.close()
        return self._link.ended.result() if self._link.ended.done() else ""

    async def _stay(self, opening: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        active = heard = logged = loop.time()
        while True:
            now = loop.time()
            if self._link.connected:
                heard = now
            if self._link.connected or self._busy:
                active = now
            if self._link.ended.done():
                return
            if opening.done() and opening.exception() is not None:
                opening.result()
            if self._asked >= 2 or (self._asked and self._is_done(now - heard)):
                return
            if now - active >= self._idle_s:
                log.info("no server and nothing to do for %g s: the node ends", self._idle_s)
                return
            if now - logged >= LOG_S:
                logged = now
                cap_log(self._home, self.node.info.id)
            await self._wait()

    async def _wait(self) -> None:
        self._stirred.clear()
        try:
            async with asyncio.timeout(LOOK_S):
                await self._stirred.wait()
        except TimeoutError:
            pass

    @property
    def _busy(self) -> bool:
        return bool(self.node.leases() or self._link.unrecorded)

    def _is_done(self, alone_s: float) -> bool:
        """Whether it has finished what it had; outcomes that nobody comes for are not kept for ever."""
        return not self._busy or (not self.node.leases() and alone_s >= min(self._idle_s, IDLE_S))

    def _told_to_end(self) -> None:
        self._asked += 1
        self._stirred.set()
        if self._asked == 1:
            log.info("told to end: finishes what it has, and takes nothing new; once more stops that")
            self._link.drain()
        elif self._asked == 2:
            log.info("what runs is ended, and done elsewhere; once more kills it")
        elif self._asked > 2:
            os._exit(137)  # whatever runs below it ends with it


def _info(name: str, config: Path | None, me: Listed) -> NodeInfo:
    given = msgspec.json.decode(config.read_bytes(), type=NodeInfo) if config is not None else node_info(name, probe())
    return msgspec.structs.replace(
        given, id=name, incarnation=me.incarnation, version=VERSION, pid=me.pid, identity=me.identity
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="skep.node.supervisor", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the data directory")
    parser.add_argument("--id", required=True, help="the node's name")
    parser.add_argument("--socket", type=Path, help="where the server listens")
    parser.add_argument("--config", type=Path, help="a NodeInfo, as JSON")
    parser.add_argument(
        "--idle", type=float, default=IDLE_S, help="seconds after which it ends without a server and without work"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    tune()
    file: IO[bytes] | None = None
    try:
        file, me = take_name(args.home, args.id)
        info = _info(args.id, args.config, me)
        uvloop.run(_supervise(args.home, info, args.socket or socket_path(args.home), args.idle))
    except SkepError as error:
        log.error("%s", error)  # noqa: TRY400  the text says it all
        return error.exit_code
    finally:
        if file is not None:
            file.close()
    return 0


async def _supervise(home: Path, info: NodeInfo, socket: Path, idle_s: float) -> None:
    if why := await Supervisor(home, info, dial_unix(socket), Path.cwd(), secrets_from(os.environ), idle_s).run():
        log.warning("the server does not want this node: %s", why)


if __name__ == "__main__":
    sys.exit(main())

"""The server's end of the link: the nodes that are connected, and those that were a moment ago.

A connection that ends leaves its node a moment to come back. A node that does not is lost, and what it had returns to ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, MutableMapping
from typing import Any, Final

from starlette.routing import BaseRoute, WebSocketRoute

from skep.engine.protocol import OK
from skep.errors import SkepError, StaleEpochError
from skep.hub.work import Work
from skep.model.node import NodeInfo
from skep.model.run import Token
from skep.node import frames
from skep.node.dial import LINK_PATH
from skep.node.frames import MESSAGE, PROTOCOL, Frame
from skep.server.connection import Connection, Receive, Send
from skep.server.guard import KEY
from skep.version import VERSION

log = logging.getLogger(__name__)

MAX_MESSAGE: Final = MESSAGE
BACK_S: Final = 1.0
"""For a node to come back."""
ALL_BACK_S: Final = 10.0
"""The same, when all connections ended within `BACK_S` of each other: that was no fault of the nodes."""
LONGEST_ID: Final = 200

Scope = MutableMapping[str, Any]


class Links:
    """The connections of all nodes: an ASGI application."""

    def __init__(self, work: Work, back_s: float = BACK_S, all_back_s: float = ALL_BACK_S) -> None:
        self._work = work
        self._back_s, self._all_back_s = back_s, all_back_s
        self.connections: dict[str, Connection] = {}
        """By node."""
        self._ended: dict[str, float] = {}
        """When the last connection of a node ended that has not come back."""
        self._waiting: set[asyncio.Task[None]] = set()
        self._leases: dict[str, set[Token]] = {}
        """What was given to each node that is registered: see `Connection.mine`."""
        self._open: set[Connection] = set()
        """Also those that are not admitted yet."""
        self._closed = False
        self.routes: list[BaseRoute] = [WebSocketRoute(LINK_PATH, self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(self, self._work, receive, send, scope.get(KEY, ""))
        self._open.add(connection)
        try:
            await connection.serve()
        finally:
            self._open.discard(connection)
            self._over(connection)

    def serve_for(self, work: Work) -> None:
        """Another engine took the place of the one before: nodes call again, and present what they have to this one."""
        self._work = work
        self._ended.clear()
        self._leases.clear()
        for connection in tuple(self.connections.values()):
            connection.cut()

    async def close(self) -> None:
        """The server ends: connections are closed, and nobody is lost by that."""
        self._closed = True
        for task in self._waiting:
            task.cancel()
        for connection in tuple(self.connections.values()):
            connection.cut(1001)

    def kick(self, node: str, reason: str) -> bool:
        """Tells a node to end. False when it is not connected."""
        connection = self.connections.get(node)
        if connection is not None:
            connection.kick(reason)
        return connection is not None

    def dismiss(self, key: str) -> None:
        """A key is good no more: the nodes that came in with it are told to end, and what they have is done elsewhere."""
        for connection in tuple(self._open):
            if connection.key == key:
                connection.dismiss(f"the key {key}, with which this node came in, was revoked; give it another one")

    async def admit(self, connection: Connection, hello: frames.Hello) -> Frame:
        """The first answer to a node."""
        info = hello.info
        if abs(hello.version - PROTOCOL) > 1:
            reason = (
                f"this server speaks protocol {PROTOCOL} (Skep {VERSION}), the node protocol {hello.version} "
                f"(Skep {hello.skep or 'unknown'}): update the older of them"
            )
            return frames.Refused(reason, PROTOCOL, hello.version)
        if not 0 < len(info.id) <= LONGEST_ID or not info.id.isprintable():
            return frames.Refused(f"a node's id has 1 to {LONGEST_ID} printable characters", PROTOCOL, hello.version)
        work = connection.work = self._work  # it may be another one than when the connection was made
        live = await work.live(info.id)
        if live is not None and live.info.identity and info.identity and live.info.identity != info.identity:
            return frames.Refused(_taken(info.id), PROTOCOL, hello.version)
        known = live is not None and live.info.incarnation == info.incarnation
        if not known and await work.register(info, beats=True, coming=True) != OK:
            return frames.Refused(f"a later start of the node '{info.id}' is here already", PROTOCOL, hello.version)
        anew = not known or (live is not None and live.coming)  # it has not presented all that it has, on no connection
        if work is not self._work:
            raise StaleEpochError("the engine was opened anew meanwhile")
        before = self.connections.get(info.id)
        if before is not None:
            before.replaced(info.incarnation)
        if anew:
            self._leases[info.id] = set()
        connection.mine = self._leases.setdefault(info.id, set())
        self.connections[info.id] = connection
        self._ended.pop(info.id, None)
        return frames.Welcome(PROTOCOL, work.epoch, anew, VERSION)

    def _over(self, connection: Connection) -> None:
        info = connection.info
        if info is None or self.connections.get(info.id) is not connection:
            return  # never admitted, or another took its place
        del self.connections[info.id]
        if self._closed or connection.work is not self._work:
            return
        if connection.retired:
            self._leases.pop(info.id, None)
        if connection.dismissed:
            self._aside(self._lose(info, "its key was revoked"))
        elif not connection.retired:
            self._ended[info.id] = asyncio.get_running_loop().time()
            self._aside(self._wait_for(info, self._ended[info.id]))

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _wait_for(self, info: NodeInfo, ended: float) -> None:
        """Gives a node a moment to come back."""
        await asyncio.sleep(self._back_s)
        together = [at for at in self._ended.values() if abs(at - ended) <= self._back_s]
        if not self.connections and len(together) > 1:
            await asyncio.sleep(self._all_back_s - self._back_s)
        if self._ended.get(info.id) == ended:
            del self._ended[info.id]
            await self._lose(info, "its connection ended and it did not come back")

    async def _lose(self, info: NodeInfo, why: str) -> None:
        self._leases.pop(info.id, None)
        try:
            if await self._work.lose(info.id, info.incarnation):
                log.warning("node %s is lost: %s", info.id, why)
        except SkepError as error:
            log.warning("node %s is lost (%s), and the engine cannot be told: %s", info.id, why, error)


def _taken(name: str) -> str:
    return (
        f"another node is named '{name}' and is here, or was a moment ago: give this one a name of its own with --name, or stop"
        f" that one and start this one again (one that fell silent is lost after 10 s)"
    )

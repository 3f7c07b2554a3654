"""Who is called back when something stirs: at once for what this process does itself, by subscription for what others do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from skep.engine.redis.store import AWAY, RedisStore
from skep.errors import EngineGoneError, SkepError
from skep.loop import end

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""How long nothing may be heard before the connection is tried."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0


class Topics:
    """Callbacks by topic, and the subscription that feeds them."""

    def __init__(self, store: RedisStore, channel: str, me: str, doubt: Callable[[Sequence[str]], None]) -> None:
        """`me`: what this process says of itself is not heard twice. `doubt`: is told first of topics that others stirred."""
        self._store = store
        self._channel = channel
        self._me = me.encode()
        self._doubt = doubt
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once it hears; raises as a verb does when it cannot."""
        hears = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._follow(hears), name="engine topics")
        await hears

    async def close(self) -> None:
        """Harmless when repeated, or before `start`."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    def listen(self, topic: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Answers how to stop."""
        listeners = self._listeners.setdefault(topic, [])
        listeners.append(callback)

        def stop() -> None:
            if callback in listeners:
                listeners.remove(callback)
            if not listeners and self._listeners.get(topic) is listeners:
                del self._listeners[topic]

        return stop

    def stir(self, topics: Iterable[str]) -> None:
        """`events` last: who places or runs goes first, and what is told after that goes into one commit."""
        for topic in sorted(topics, key=lambda topic: topic == "events"):
            for callback in tuple(self._listeners.get(topic, ())):
                callback()

    def stir_all(self) -> None:
        """Something may have been missed."""
        self._stirred_elsewhere(tuple(self._listeners))

    def _stirred_elsewhere(self, topics: Sequence[str]) -> None:
        self._doubt(topics)
        self.stir(topics)

    async def _follow(self, hears: asyncio.Future[None]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._hear(hears)
            except Exception as error:  # whatever it is: who hears nothing looks at nothing
                if not hears.done():
                    hears.set_exception(error if isinstance(error, SkepError) else self._store.translated(error))
                    return
                known = isinstance(error, (*AWAY, SkepError))
                log.log(logging.INFO if known else logging.ERROR, "not hearing from Redis: %s", error, exc_info=not known)
                if isinstance(error, EngineGoneError):
                    self.stir_all()  # whoever looks now is told so by its verb
                    pause_s = LONGEST_PAUSE_S
            if asyncio.get_running_loop().time() - began > LOOK_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _hear(self, hears: asyncio.Future[None]) -> None:
        """Until the connection fails."""
        async with self._store.listener() as listener:
            await listener.subscribe(self._channel)
            while (message := await listener.get_message(timeout=LOOK_S)) is None or message["type"] != "subscribe":
                if message is None:
                    raise TimeoutError("the subscription is not answered")
            if hears.done():
                self.stir_all()
            else:
                hears.set_result(None)
            asked = False
            while True:
                message = await listener.get_message(timeout=LOOK_S)
                if message is None:
                    if asked:
                        raise TimeoutError("the subscription is silent")
                    await listener.ping()
                    asked = True
                    continue
                asked = False
                if message["type"] == "message":
                    who, topics = msgspec.msgpack.decode(message["data"])
                    if who.encode() != self._me:
                        self._stirred_elsewhere(topics)

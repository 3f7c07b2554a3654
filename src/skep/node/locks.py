"""The locks that attempts of one node hold or wait for (`context.lock`).

The engine knows locks by lease. Blocks of one attempt, nested or side by side, share its lease: they are counted here, so that
the lock is given back by the last of them.
"""

from __future__ import annotations

import asyncio

from skep.engine.protocol import OK, WAITING
from skep.errors import SkepError
from skep.model.node import Grant, HeldLock
from skep.model.run import Token
from skep.node.attempt import SUPERSEDED, Attempt
from skep.node.link import Link


class _Lock:
    """One lock of one attempt."""

    __slots__ = ("blocks", "granted", "hold_ms", "units", "until", "waits")

    def __init__(self) -> None:
        self.blocks = 0
        """How many hold it or wait for it."""
        self.granted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.units = self.hold_ms = 0
        self.waits = False
        """The server has it in the list of those who wait."""
        self.until = 0.0
        """When it is freed at the latest, on the loop's clock; 0 while it is not held."""

    def hold(self) -> None:
        self.waits = False
        self.until = asyncio.get_running_loop().time() + self.hold_ms / 1000

    def answer(self, answer: str) -> None:
        if not self.granted.done():
            self.granted.set_result(answer)


class Locks:
    """By lease and name."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._locks: dict[Token, dict[str, _Lock]] = {}

    async def claim(self, attempt: Attempt, name: str, units: int, hold_ms: int, wait: bool) -> str:
        """`ok`, or why not. With `wait` it takes as long as it takes, at most until the attempt ends or is stopped."""
        grant = attempt.grant
        locks = self._locks.setdefault(grant.token, {})
        lock = locks.setdefault(name, _Lock())
        if lock.granted.done():  # its limit may have come since
            lock.granted = asyncio.get_running_loop().create_future()
        lock.blocks += 1
        lock.units, lock.hold_ms = max(units, lock.units), hold_ms
        answer = ""
        try:
            answer = await self._link.claim(grant.run, grant.task, grant.token, name, units, hold_ms, wait)
            if answer == WAITING and wait:
                lock.waits = True
                answer = await asyncio.shield(lock.granted)
            elif answer == OK:
                lock.hold()
        finally:
            if answer != OK and locks.get(name) is lock:
                self._leave(grant.token, name)
        return answer

    async def release(self, attempt: Attempt, name: str) -> None:
        """The end of a block, also of one that has not got the lock yet."""
        grant = attempt.grant
        if self._leave(grant.token, name):
            await self._link.release(grant.run, grant.token, name)

    def granted(self, token: Token, name: str) -> None:
        """The server gives an attempt what it waits for."""
        lock = self._locks.get(token, {}).get(name)
        if lock is not None:
            lock.hold()
            lock.answer(OK)

    def held(self, token: Token) -> tuple[HeldLock, ...]:
        """What an attempt holds now, by name, with the time left."""
        locks = self._locks.get(token)
        if not locks:
            return ()
        now = asyncio.get_running_loop().time()
        held = ((name, lock, round((lock.until - now) * 1000)) for name, lock in locks.items())
        return tuple(HeldLock(name, lock.units, left_ms) for name, lock, left_ms in held if left_ms > 0)

    async def ask_again(self, grant: Grant) -> None:
        """An engine that was opened anew has the lease, and what it held; what it waited for is to be asked for again."""
        for name, lock in tuple(self._locks.get(grant.token, {}).items()):
            if lock.waits:
                try:
                    answer = await self._link.claim(grant.run, grant.task, grant.token, name, lock.units, lock.hold_ms, True)
                except SkepError as error:
                    lock.answer(str(error))
                    continue
                if answer == OK:
                    self.granted(grant.token, name)
                elif answer != WAITING:
                    lock.answer(answer)

    def give_up(self, attempt: Attempt) -> None:
        """Nobody waits any more: the attempt is being stopped, or has ended."""
        for lock in self._locks.get(attempt.grant.token, {}).values():
            lock.answer(SUPERSEDED)

    def forget(self, attempt: Attempt) -> None:
        """The attempt has ended, and with its lease all that it held."""
        if attempt.grant.token in self._locks:
            self.give_up(attempt)
            del self._locks[attempt.grant.token]

    def _leave(self, token: Token, name: str) -> bool:
        """True when that was the last block."""
        locks = self._locks.get(token, {})
        lock = locks.get(name)
        if lock is None:
            return False
        lock.blocks -= 1
        if lock.blocks:
            return False
        del locks[name]
        if not locks:
            del self._locks[token]
        lock.answer(SUPERSEDED)
        return True

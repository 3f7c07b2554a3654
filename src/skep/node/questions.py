"""What code of attempts asked of the server and is not yet answered. A question outlives its connection, and the server too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from skep import errors
from skep.errors import ConflictError, SkepError, SupersededError
from skep.model.run import Token
from skep.node.frames import Answer

KINDS = (errors.SupersededError, errors.ConflictError, errors.RefusedError, errors.NotFoundError, errors.WrongStateError)
"""What an answer may raise besides SkepError."""


AWAY = {
    kind.__name__
    for kind in (
        errors.RecordUnavailableError,
        errors.EngineUnavailableError,
        errors.StaleEpochError,
        errors.EngineGoneError,
    )
}
"""What says only that a database of the server does not answer just now."""
PAUSE_S = 0.5
"""Before it is asked again."""


def error_of(error: tuple[str, str]) -> SkepError:
    """The error that an answer stands for: (name, text)."""
    name, message = error
    return next((kind for kind in KINDS if kind.__name__ == name), SkepError)(message)


class AskedTwice(ConflictError):
    """The question was asked on more than one connection, so that the conflict may be with what it did the first time."""


class Question:
    """One of them."""

    __slots__ = ("answered", "number", "send", "times", "token")

    def __init__(self, number: int, token: Token | None, send: Callable[[int], None]) -> None:
        self.number = number
        self.token = token
        """Of the attempt that asks, if it is about its lease: until that is adopted, no engine knows it."""
        self.send = send
        self.times = 0
        """How often it was sent."""
        self.answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Questions:
    """By number, in their order."""

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: how long an answer may take."""
        self._limit_s = limit_s
        self._numbers = count(1)
        self._open: dict[int, Question] = {}
        self.connected = False
        self._unsettled: set[Token] = set()
        """Leases that the engine does not know yet: what concerns them waits."""

    async def ask(self, token: Token | None, send: Callable[[int], None]) -> Any:
        """`send` hands the question to the connection. Raises what the answer says, and SkepError after too long a time."""
        question = Question(next(self._numbers), token, send)
        self._open[question.number] = question
        try:
            self._try(question)
            async with asyncio.timeout(self._limit_s):
                return await question.answered
        except TimeoutError:
            raise SkepError(f"the server has not answered for {self._limit_s:g} s") from None
        except ConflictError as error:
            if question.times > 1:
                raise AskedTwice(str(error)) from None
            raise
        finally:
            self._open.pop(question.number, None)

    def _try(self, question: Question) -> None:
        if self.connected and question.token not in self._unsettled:
            question.times += 1
            question.send(question.number)

    def _try_again(self, question: Question) -> None:
        if not question.answered.done():
            self._try(question)

    def again(self, unsettled: Iterable[Token]) -> None:
        """There is a new connection: everything is asked anew, but what concerns leases that are still to be adopted."""
        self.connected = True
        self._unsettled = set(unsettled)
        for question in tuple(self._open.values()):
            self._try(question)

    def settled(self, token: Token) -> None:
        """The lease is adopted."""
        if token in self._unsettled:
            self._unsettled.discard(token)
            for question in tuple(self._open.values()):
                if question.token == token:
                    self._try(question)

    def superseded(self, token: Token) -> None:
        """The lease is gone."""
        self._unsettled.discard(token)
        for question in tuple(self._open.values()):
            if question.token == token and not question.answered.done():
                question.answered.set_exception(SupersededError("another attempt has taken the place of this one"))

    def answer(self, answer: Answer) -> None:
        question = self._open.get(answer.number)
        if question is None or question.answered.done():
            return  # nobody waits for it any more
        if answer.error is None:
            question.answered.set_result(answer.value)
        elif answer.error[0] in AWAY:  # the attempt shall not fail for that: it is asked again, as long as there is time
            asyncio.get_running_loop().call_later(PAUSE_S, self._try_again, question)
        else:
            question.answered.set_exception(error_of(answer.error))

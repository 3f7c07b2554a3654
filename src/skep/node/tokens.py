"""A server that was opened anew gives the leases that it adopts new tokens. The node goes on under those it saw first: it keeps
its attempts by them, and its tasks know no others. Here, at its border, the two are exchanged."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from skep.engine.protocol import InboxEntry
from skep.model.node import Adopted, Grant, Held, LockGrant, Outcome, Stop
from skep.model.run import Token


class Tokens:
    """Those that differ; mostly there are none."""

    def __init__(self) -> None:
        self._now: dict[Token, Token] = {}
        self._first: dict[Token, Token] = {}

    def now(self, first: Token) -> Token:
        """What the server calls it."""
        return self._now.get(first, first) if self._now else first

    def first(self, now: Token) -> Token:
        """What the node calls it."""
        return self._first.get(now, now) if self._first else now

    def adopt(self, old: Token, now: Token) -> Token:
        """The lease goes on under a new token. Answers what the node calls it."""
        first = self._first.pop(old, old)
        self._now[first] = now
        self._first[now] = first
        return first

    def forget(self, first: Token) -> None:
        if self._now:
            self._first.pop(self._now.pop(first, first), None)

    # -- what goes out

    def outcomes(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        if not self._now:
            return list(outcomes)
        return [msgspec.structs.replace(outcome, token=self.now(outcome.token)) for outcome in outcomes]

    def held(self, held: Sequence[Held]) -> list[Held]:
        if not self._now:
            return list(held)
        grants = (msgspec.structs.replace(one.grant, token=self.now(one.grant.token)) for one in held)
        return [Held(grant, one.locks) for grant, one in zip(grants, held, strict=True)]

    # -- what comes in

    def entry(self, entry: InboxEntry) -> Grant | Stop | LockGrant | Adopted:
        """As the node knows it. A new token is noted."""
        given = entry.entry
        if type(given) is Adopted:
            return Adopted(self.adopt(given.old, given.token), given.token)
        if self._first and type(given) is not Grant:
            return msgspec.structs.replace(given, token=self.first(given.token))
        return given

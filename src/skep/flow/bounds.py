"""What a task may do only so many times at once, or so often, in the whole fleet: locks, concurrency keys, rates. Pure.

All of them are claims, by namespace and name. The names may hold expressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from skep.flow.evaluation import Scope
from skep.flow.functions import to_text
from skep.flow.templates import Value
from skep.model.run import EXCLUSIVE, Claim, Rate, concurrency_key, lock_key, rate_key
from skep.model.spec import ConcurrencySpec, LockSpec, RateSpec, TaskSpec

BoundSpec: TypeAlias = LockSpec | ConcurrencySpec | RateSpec


class Bound(NamedTuple):
    """One of them, with its name compiled."""

    name: Value
    spec: BoundSpec


def bounds_of(task: TaskSpec) -> Iterator[tuple[str, str, BoundSpec]]:
    """The key under which each stands in the task, its name as it was written, and all of it."""
    yield from (("locks", lock.name, lock) for lock in task.locks)
    yield from (("concurrency", limit.key, limit) for limit in task.concurrency)
    yield from (("rate", rate.key, rate) for rate in task.rates)


def claims_of(bounds: Sequence[Bound], namespace: str, scope: Scope) -> tuple[Claim | Rate, ...]:
    """The claims of an attempt. What is named twice counts once, the stricter of both. Raises ExpressionError.

    Always in the same order, so that what is waited for does not depend on how a task lists it; and rates last, so that nobody
    waits for a rate whom a claim holds back anyway.
    """
    wanted: dict[str, Claim | Rate] = {}
    for bound in bounds:
        claim = _claim(bound.spec, namespace, to_text(bound.name.render(scope)))
        if (other := wanted.get(claim.key)) is not None:
            claim = claim._replace(units=max(claim.units, other.units), cap=min(claim.cap, other.cap))
        wanted[claim.key] = claim
    return tuple(wanted[key] for key in sorted(wanted))


def _claim(spec: BoundSpec, namespace: str, name: str) -> Claim | Rate:
    if isinstance(spec, LockSpec):
        return Claim(lock_key(namespace, name), 1 if spec.shared else EXCLUSIVE, EXCLUSIVE)
    if isinstance(spec, ConcurrencySpec):
        return Claim(concurrency_key(namespace, name), 1, spec.limit)
    every_us = -(-spec.unit_us // spec.count)  # rounded up: never faster than was said
    return Rate(rate_key(namespace, spec.unit, name), every_us, every_us * spec.burst)

"""Whether a failed attempt is tried again, and after how long. Pure: chance is handed in."""

from __future__ import annotations

from skep.model.node import ErrorInfo
from skep.model.spec import RetryPolicy

NEVER = frozenset({"Cancelled", "Secrets", "Import"})
"""Failures that another attempt cannot mend."""


def retry_in_ms(policy: RetryPolicy | None, failures: int, error: ErrorInfo | None, chance: float, asked_ms: int = 0) -> int:
    """How long to wait before the next attempt, in ms; -1 when there shall be none.

    `failures` counts earlier failed attempts; `chance` is uniform in [0, 1); `asked_ms` a delay that the failure itself asks
    for (Retry-After), which is kept to at the least. Exponential back-off with proportional jitter:
    min(max_delay, delay * factor**failures) * (1 ± jitter).
    """
    if policy is None or failures >= policy.limit:
        return -1
    if error is not None:
        names = {error.type, error.type.rpartition(".")[2], *error.parents}
        if error.type in NEVER or names.intersection(policy.never) or (policy.only and not names.intersection(policy.only)):
            return -1
    # The exponent is bounded: beyond it every delay is max_delay_ms, and a float would overflow.
    grown = min(float(policy.max_delay_ms), policy.delay_ms * policy.factor ** min(failures, 64))
    delayed = grown * (1 + policy.jitter * (2 * chance - 1))
    return max(int(delayed), asked_ms, 0)

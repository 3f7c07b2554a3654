"""How a fleet's router is set up. Data only; wrong values are refused with the name of the field."""

from __future__ import annotations

import math

import msgspec


def _not_negative(name: str, value: float) -> None:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}: expected a number of 0 or more, found {value}")


class Weights(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the `hybrid` policy mixes. Each term is a number of about 0 to 1, or of typical durations of the task; a term with
    weight 0 does not count."""

    completion: float = 1.0
    """Waiting there plus running there, in units of the time it takes on the best node."""
    load: float = 0.05
    """Share of the node in use: among nodes that are as fast, the one that has the most left."""
    price: float = 0.0
    """Money for the task there, in units of the least it costs anywhere. `cost_sensitive` tasks take `cost_sensitive` of it."""
    locality: float = 1.0
    """Time to bring the inputs that are not there yet, in the same units as `completion`."""
    affinity: float = 1.0
    """1 for every node other than the one where tasks of the same key went."""
    reliability: float = 1.0
    """Time lost to attempts that fail there, as expected, in the same units as `completion`."""
    cost_sensitive: float = 4.0
    """`price` of tasks that say `cost_sensitive`."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _not_negative(f"weights.{name}", getattr(self, name))


class RouterSettings(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Policy and weights of a fleet."""

    policy: str = "hybrid"
    """Of tasks that name none."""
    swarms: dict[str, str] = {}
    """Swarm → policy of tasks that can only go to nodes of that swarm, and name no policy."""
    prefer: dict[str, tuple[str, ...]] = {}
    """Task type → nodes by id, or words as in `requires`, the first choice first. For tasks that prefer nothing themselves."""
    weights: Weights = Weights()
    bytes_per_s: float = 100e6
    """How fast inputs are brought to a node that does not have them yet."""
    hold: bool = True
    """Whether tasks may wait for a busy node that is predicted to be done with them sooner than any free one."""
    least_gain_s: float = 0.02
    """Nobody waits for less than that."""
    doubt: float = 0.5
    """By how many standard deviations of its prediction a busy node must be better, to be waited for."""

    def __post_init__(self) -> None:
        for name in ("bytes_per_s", "least_gain_s", "doubt"):
            _not_negative(name, getattr(self, name))
        if not self.bytes_per_s:
            raise ValueError("bytes_per_s: expected more than 0")
        if not self.policy:
            raise ValueError("policy: expected a name, such as 'hybrid'")

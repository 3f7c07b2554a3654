"""Wrong settings are refused, and the message names the field."""

from __future__ import annotations

import math
from typing import Any

import pytest

from skep.router.settings import RouterSettings, Weights


@pytest.mark.parametrize("name", Weights.__struct_fields__)
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_are_numbers_of_0_or_more(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"weights\.{name}: expected a number of 0 or more, found {value}"):
        Weights(**{name: value})


@pytest.mark.parametrize(
    "given",
    [{"bytes_per_s": 0}, {"bytes_per_s": -1}, {"least_gain_s": -1}, {"doubt": math.nan}, {"policy": ""}],
)
def test_so_are_the_others(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(given))}: expected"):
        RouterSettings(**given)

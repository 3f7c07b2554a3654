"""The suite lives in the package; its assertions should explain themselves like those of any test."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("skep.testing.shapes", "skep.testing.engine", "skep.testing.machine")
settings.register_profile("soak", max_examples=5_000, stateful_step_count=100)

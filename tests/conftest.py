"""For all tests: the published suites explain their failed assertions like any test, and what a soak is."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Before anything imports them; the suites live in the package.
pytest.register_assert_rewrite("skep.testing.shapes", "skep.testing.engine", "skep.testing.machine")
settings.register_profile("soak", max_examples=5_000, stateful_step_count=100)

"""What is wrong, as a document for programs: beside the message for people."""

from __future__ import annotations

from typing import Any

from skep.errors import Problem, SkepError


def problems_of(error: SkepError) -> list[dict[str, Any]]:
    """`path`, `message` and `line` of each; at least one."""
    return [problem._asdict() for problem in error.problems or [Problem("", str(error))]]

"""Every error that Skep raises on purpose. Each says what was expected and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class SkepError(Exception):
    """The root of all of them. `exit_code` is what the command line ends with (see the table in docs/reference.md)."""

    exit_code = 1
    problems: Sequence[Problem] = ()
    """What is wrong and where, as far as it has a place."""


class Problem(NamedTuple):
    """One thing wrong with a specification."""

    path: str
    """Where: `tasks.lint.retries`; empty for the document as a whole."""
    message: str
    """What was found and what was expected."""
    line: int | None = None
    """The line in the YAML file, from 1, when it came from one."""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class SpecError(SkepError, ValueError):
    """A workflow, its inputs or its options are wrong. Nothing of it was accepted."""

    exit_code = 3

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        head = f"{source}: " if source else ""
        lines = [f"{head}{problem}" for problem in self.problems]
        super().__init__("\n".join(lines))

    @classmethod
    def at(cls, path: str, message: str) -> SpecError:
        """An error with a single problem."""
        return cls([Problem(path, message)])


class RefusedError(SkepError):
    """The request was understood and refused: a limit, a policy, a missing capability. The message says what to do."""

    exit_code = 3


class NotFoundError(SkepError, LookupError):
    """There is no such run, task, node or artifact."""

    exit_code = 3


class WrongStateError(SkepError):
    """The run or task is not in a state in which this can be done."""

    exit_code = 3


class SupersededError(SkepError):
    """The caller's token is older than the task's: another attempt took its place. Nothing was changed."""


class StaleEpochError(SkepError):
    """The engine was opened anew since the caller looked; read the epoch again."""


class EngineUnavailableError(SkepError):
    """The engine's store does not answer just now. Whether a verb was done is not known: say it again."""


class EngineGoneError(StaleEpochError):
    """The store is another process than the one the engine was opened on, or has lost it: the engine must be opened anew."""


class ConflictError(SkepError):
    """A compare-and-set found another version than the one named."""


class RecordError(SkepError):
    """The record refused or failed; nothing of the request was kept."""

    exit_code = 3


class RecordUnavailableError(RecordError):
    """The record cannot be reached; it is as before once it can. Ask for the same again."""


class DataInUseError(RecordError):
    """Another process owns this data directory."""


class RunFailedError(SkepError):
    """A run ended other than succeeded. `failures` names the tasks; the message carries the first remote traceback."""

    def __init__(self, run_id: str, state: str, reason: str | None, failures: Sequence[tuple[str, str]]) -> None:
        self.run_id = run_id
        self.state = state
        self.reason = reason
        self.failures = tuple(failures)
        if state == "cancelled":
            self.exit_code = 4
        elif reason == "timeout":
            self.exit_code = 5
        text = f"run {run_id} {state}" + (f" ({reason})" if reason else "")
        for name, trouble in self.failures[:3]:
            text += f"\n\n{name}: {trouble}"
        if len(self.failures) > 3:
            text += f"\n\nand {len(self.failures) - 3} more failed tasks"
        super().__init__(text)

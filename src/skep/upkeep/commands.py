"""Commands, as the record has them and as the engine takes them."""

from __future__ import annotations

from typing import Final

import msgspec

from skep.engine.protocol import Answer, Engine, Resolve, RunCommand
from skep.model.node import ErrorInfo
from skep.model.state import TaskState
from skep.model.wait import Verdict
from skep.record.protocol import Command

DECIDE: Final = "decide"
RETRY: Final = "retry"


class Retry(msgspec.Struct, frozen=True):
    """The data of a `retry`. Without tasks: all that did not succeed."""

    reason: str = ""
    tasks: tuple[int, ...] = ()


_verdict = msgspec.json.Decoder(Verdict)
_retry = msgspec.json.Decoder(Retry)
_encode = msgspec.json.Encoder().encode


async def tell(engine: Engine, command: Command) -> Answer:
    """Hands a recorded command to the engine; a repeat does nothing there."""
    if command.verb == DECIDE:
        (answer,) = await engine.resolve([resolution(command)])
        return answer
    verb = {"cancel": engine.cancel, "pause": engine.pause, "resume": engine.resume, RETRY: engine.retry}[command.verb]
    (answer,) = await verb([_run_command(command)])
    return answer


def _run_command(command: Command) -> RunCommand:
    if command.verb != RETRY:
        return RunCommand(command.run, command.number, command.data.decode())
    retry = _retry.decode(command.data) if command.data else Retry()
    return RunCommand(command.run, command.number, retry.reason, retry.tasks)


def resolution(command: Command) -> Resolve:
    """What a decision on an approval does to the task."""
    verdict = _verdict.decode(command.data)
    place = command.run, verdict.task, f"command-{command.number}"
    if verdict.approve:
        output = {"approved": True, "comment": verdict.comment, "by": verdict.by, "data": verdict.data}
        return Resolve(*place, TaskState.SUCCEEDED, output=_encode(output), attempt=verdict.attempt)
    if verdict.expired:
        error = ErrorInfo("Timeout", verdict.comment)
        retry_ms, attempt = verdict.retry_in_ms, verdict.attempt
        return Resolve(*place, TaskState.FAILED, "timeout", error=_encode(error), retry_in_ms=retry_ms, attempt=attempt)
    who = f" by {verdict.by}" if verdict.by else ""
    error = ErrorInfo("Rejected", f"rejected{who}" + (f": {verdict.comment}" if verdict.comment else ""))
    return Resolve(*place, TaskState.FAILED, reason="rejected", error=_encode(error), attempt=verdict.attempt)

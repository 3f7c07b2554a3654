"""Tasks that are neither a function nor a command: a request, a question, a child run, a wait for an event."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, cast

from skep.model.authoring import spec_to_data
from skep.model.kinds import TASK_NAME
from skep.model.spec import WorkflowSpec
from skep.sdk.draft import draft
from skep.sdk.ref import Ref, template_data, value_data
from skep.sdk.task import AskOptions, Duration, HttpOptions, ParkedOptions
from skep.sdk.workflow import WorkflowFunction


def http(
    url: Any,
    *,
    method: Any = None,
    headers: Mapping[str, Any] | None = None,
    query: Any = None,
    json: Any = None,
    body: Any = None,
    expect: int | str | Sequence[int | str] | None = None,
    max_bytes: int | str | None = None,
    follow_redirects: bool | None = None,
    **options: Unpack[HttpOptions],
) -> Any:
    """Adds a request to the workflow being built and gives its response: `status`, `headers` and `body`.

    `http(f"https://example.org/{name}", expect=[200, 404])`. As in YAML, `${{ … }}` in texts is an expression, but for `json`,
    whose texts are data.
    """
    texts = {"url": url, "method": method, "headers": headers, "query": query, "body": body}
    fixed = {"expect": expect, "max_bytes": max_bytes, "follow_redirects": follow_redirects}
    data = {key: value_data(json) for key in ("json",) if json is not None}
    call = {key: template_data(value) for key, value in texts.items() if value is not None}
    call |= {key: value for key, value in fixed.items() if value is not None}
    return draft("http()").add("http", {"http": call | data}, cast(Mapping[str, Any], options))


def approval(
    message: Any,
    *,
    form: Mapping[str, Any] | None = None,
    deadline: Duration | None = None,
    default: Literal["approve", "reject"] | None = None,
    **options: Unpack[AskOptions],
) -> Any:
    """Adds a question to a person to the workflow being built; gives `approved`, `comment`, `by` and, with a `form`, `data`.

    The task fails when the answer is no, and after the `deadline` if there is no `default` answer.
    """
    call = {"message": template_data(message), "form": form and value_data(form), "deadline": deadline, "default": default}
    data = {"approval": {key: value for key, value in call.items() if value is not None}}
    return draft("approval()").add("approval", data, cast(Mapping[str, Any], options))


def uses(
    workflow: str | Ref | WorkflowFunction[Any] | WorkflowSpec,
    inputs: Mapping[str, Any] | None = None,
    **options: Unpack[ParkedOptions],
) -> Any:
    """Adds a child run to the workflow being built and gives its output: of a stored workflow by name, or of one made here."""
    if isinstance(workflow, WorkflowSpec | WorkflowFunction):
        spec = workflow if isinstance(workflow, WorkflowSpec) else workflow.spec
        base, child = spec.name, spec_to_data(spec)
    else:
        child = template_data(workflow)
        base = child.partition("@")[0]
    data = {"uses": {"workflow": child}, **({"with": value_data(inputs)} if inputs else {})}
    return draft("uses()").add(base if re.fullmatch(TASK_NAME, base) else "uses", data, cast(Mapping[str, Any], options))


def wait_for(event: Any, *, key: Any = None, **options: Unpack[ParkedOptions]) -> Any:
    """Adds a wait for an event of this name (and `key`) to the workflow being built, and gives what came with it."""
    call = {"event": template_data(event), **({"key": template_data(key)} if key is not None else {})}
    return draft("wait_for()").add("wait_for", {"wait_for": call}, cast(Mapping[str, Any], options))

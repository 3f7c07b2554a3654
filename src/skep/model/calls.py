"""What a task does, where that takes more than one line: the keys of `http`, `approval`, `uses` and `wait_for`.

Each has a short form, one text, which stands for the mapping with its first key. What is read is a dict by attribute, in the
order of the table and without what was not written, so that equal calls are equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skep.model import kinds, units
from skep.model.fields import Field, Kind, Table, wrong
from skep.model.forms import parse_form
from skep.model.spec import RetryPolicy

EXPRESSION: Final[Mapping[str, Any]] = {"type": "string", "pattern": r"\$\{\{"}
MAX_BODY: Final = 64 << 20
"""Bytes of a response that `max_bytes` may allow: what the output of a task may have."""
DEFAULT_BODY: Final = 16 << 20
"""Bytes of a response without `max_bytes`."""
REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Methods that may be sent twice."""


def _parse_arguments(value: Any) -> Any:
    if isinstance(value, Mapping) or (isinstance(value, str) and "${{" in value):
        return kinds.parse_json(value) or None
    raise wrong(value, "a mapping from names to values, or one expression that gives it")


ARGUMENTS: Final = Kind(_parse_arguments, {"anyOf": [{"type": "object"}, EXPRESSION]})


def _or_expression(kind: Kind) -> Kind:
    """A value that may also be made by an expression; then it is checked when the task runs."""

    def parse(value: Any) -> Any:
        return kinds.parse_text(value) if isinstance(value, str) and "${{" in value else kind.parse(value)

    return Kind(parse, {"anyOf": [kind.schema, EXPRESSION]}, kind.write)


def _call(table: Table) -> Kind:
    """A mapping with the keys of the table, or a text in the place of its first one."""
    first = table.fields[0]

    def make(**given: Any) -> dict[str, Any]:
        call: dict[str, Any] = {}
        for field in table.fields:
            value = given.get(field.attribute)
            if value is not None or (field.kind is kinds.JSON and field.attribute in given):
                call[field.attribute] = value
        return call

    def write(call: Mapping[str, Any]) -> Any:
        written = {field.key: field.kind.write(call[field.attribute]) for field in table.fields if field.attribute in call}
        return written[first.key] if written.keys() == {first.key} and isinstance(written[first.key], str) else written

    short = Kind(lambda value: {first.attribute: first.kind.parse(value)}, first.kind.schema)
    return kinds.or_mapping(short, kinds.mapping_with(table, make, write))


# -- http

_URL: Final = kinds.matching(
    r"[hH][tT][tT][pP][sS]?://[^\s/?#]\S*|.*\$\{\{[\s\S]*", "a URL that starts with http:// or https://, without blanks"
)
_METHODS: Final = kinds.choice("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HEADERS: Final = kinds.mapping_of(
    kinds.WORD, "a mapping from names to texts", kinds.matching(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", "the name of a header")
)
_STATUSES: Final[Mapping[str, Any]] = {
    "anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string", "pattern": "^[1-5]xx$"}]
}


def _parse_status(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return value
    if isinstance(value, str) and len(value) == 3 and value[0] in "12345" and value[1:] == "xx":
        return value
    raise wrong(value, "a status, such as 200, or a class of them, such as 2xx")


def _parse_statuses(value: Any) -> list[int | str]:
    if not isinstance(value, list | tuple):
        return [_parse_status(value)]
    if not value:
        raise wrong(value, "at least one status")
    return list(dict.fromkeys(kinds.each(_parse_status, value)))


_EXPECT: Final = Kind(
    _parse_statuses,
    {"anyOf": [_STATUSES, {"type": "array", "items": _STATUSES, "minItems": 1}]},
    lambda statuses: statuses[0] if len(statuses) == 1 else statuses,
)


def _parse_most(value: Any) -> int:
    most: int = kinds.SIZE.parse(value)
    if 0 < most <= MAX_BODY:
        return most
    raise wrong(value, f"1 byte to {units.format_bytes(MAX_BODY)}")


_MOST: Final = Kind(_parse_most, kinds.SIZE.schema, kinds.SIZE.write)
_REQUEST: Final = Table(
    "`http`",
    Field("url", "url", _URL, "Where to; may hold expressions, as all values may."),
    Field("method", "method", _or_expression(_METHODS), "GET by default."),
    Field("headers", "headers", _HEADERS, "Headers by name."),
    Field("query", "query", ARGUMENTS, "Added to the URL; a list gives its name several times, null leaves it out."),
    Field("json", "json", kinds.JSON, "Body, sent as JSON."),
    Field("body", "body", kinds.PROSE, "Body, sent as it is.", apart=(("json", "a request has one body"),)),
    Field("expect", "expect", _EXPECT, "Status, or a list: 200, 2xx. Any other fails the task; 2xx by default."),
    Field("max_bytes", "max_bytes", _MOST, "Largest response; 16MiB by default, up to 64MiB."),
    Field("follow_redirects", "follow_redirects", kinds.FLAG, "Whether to go where the server points; true by default."),
    required=("url",),
)
HTTP: Final = _call(_REQUEST)


def http_retry(call: Mapping[str, Any]) -> RetryPolicy:
    """The retries of a request that says nothing of them: two, after what another try may mend.

    A request that must not be sent twice is tried again only when it was not taken: refused as too many, or never sent.
    """
    repeatable = call.get("method", "GET") in REPEATABLE
    return RetryPolicy(2, only=("Busy", "Gateway", "Connection") if repeatable else ("Busy", "Connect"))


# -- approval


def _parse_wait_ms(value: Any) -> int:
    wait_ms: int = kinds.DURATION.parse(value)
    if wait_ms:
        return wait_ms
    raise wrong(value, "a duration, such as 2d")


_QUESTION: Final = Table(
    "`approval`",
    Field("message", "message", kinds.TEXT, "What is asked."),
    Field("form", "form", Kind(parse_form, {"type": "object"}), "JSON Schema of the data that an approval must bring."),
    Field(
        "deadline",
        "deadline_ms",
        Kind(_parse_wait_ms, kinds.DURATION.schema, kinds.DURATION.write),
        "How long to wait for the answer, counted from the question.",
    ),
    Field(
        "default",
        "default",
        kinds.choice("approve", "reject"),
        "The answer when the deadline is over; without it the task fails.",
        beside=("deadline",),
    ),
    required=("message",),
)
APPROVAL: Final = _call(_QUESTION)


# -- uses

_NAMED: Final = _or_expression(kinds.matching(rf"{kinds.NAME}(?:@[1-9][0-9]*)?", "the name of a workflow, or name@version"))


def _parse_workflow(value: Any) -> Any:
    return value if isinstance(value, Mapping) else _NAMED.parse(value)


_WORKFLOW: Final = Kind(_parse_workflow, {"anyOf": [_NAMED.schema, {"$ref": "#/$defs/inline"}]})
_CHILD: Final = Table(
    "`uses`",
    Field("workflow", "workflow", _WORKFLOW, "Stored workflow, name or name@version, or a workflow written out."),
    Field("with", "with", ARGUMENTS, "Inputs of the child run; also beside `uses`."),
    required=("workflow",),
)
USES: Final = _call(_CHILD)
"""As it was written: `skep.model.authoring` reads an inline workflow, and takes `with` out."""


# -- wait_for

_EVENT: Final = Table(
    "`wait_for`",
    Field("event", "event", kinds.TEXT, "Name of the event."),
    Field("key", "key", kinds.TEXT, "Key that the event must have; none by default."),
    required=("event",),
)
WAIT_FOR: Final = _call(_EVENT)

TABLES: Final = {"http": _REQUEST, "approval": _QUESTION, "uses": _CHILD, "wait_for": _EVENT}

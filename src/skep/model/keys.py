"""Every key of a workflow as people write it: the one table behind reading, writing back, `skep schema` and the docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from skep.model import calls, kinds
from skep.model.fields import Fault, Field, Found, Kind, Table, wrong
from skep.model.spec import PARKED, UNITS_US, ConcurrencySpec, LockSpec, PlacementSpec, RateSpec, Resources, RetryPolicy

EXECUTORS: Final = ("run", "python", "http", "approval", "uses", "wait_for")
PLANNED: Final = frozenset({"agent"})
"""Executors of the design that this version does not run yet."""

TASK_NAME: Final = kinds.names(kinds.TASK_NAME, "a task")
_NAME: Final = kinds.names(kinds.TASK_NAME, "an input")
_FUNCTION: Final = kinds.matching(
    r"(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*|.+\.py):[^\W\d]\w*(?:\.[^\W\d]\w*)*", "module:function, or path/to/file.py:function"
)
_CAPABILITIES: Final = kinds.several(kinds.matching(r"[^\s,]+", "one word"), "a capability, such as gpu")
_PLACES: Final = kinds.several(kinds.matching(r"[^\s,]+", "one word"), "a node or a label")
_ENV: Final = kinds.mapping_of(
    kinds.WORD, "a mapping from names to texts", kinds.matching(r"[^=\x00]+", "a name without '='"), merges=True
)


def _parse_condition(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else kinds.parse_text(value)


def _parse_items(value: Any) -> Any:
    if isinstance(value, str):
        return kinds.parse_text(value)
    if isinstance(value, list | tuple):
        return kinds.parse_json(value)
    raise wrong(value, "an expression that gives a list, or the list itself")


_CONDITION: Final = Kind(_parse_condition, {"anyOf": [{"type": "boolean"}, kinds.TEXT.schema]})
_ITEMS: Final = Kind(_parse_items, {"anyOf": [kinds.TEXT.schema, {"type": "array"}]})


# -- mappings inside of a task

_LIMIT: Final = kinds.number(0, 1_000, whole=True)
RETRY: Final = Table(
    "`retries`",
    Field("limit", "limit", _LIMIT, "Retries after the first attempt.", alias="max"),
    Field("delay", "delay_ms", kinds.DURATION, "Wait before the first retry; 1s by default."),
    Field("factor", "factor", kinds.number(1, 1_000), "By what the wait grows from retry to retry; 2 by default."),
    Field("max_delay", "max_delay_ms", kinds.DURATION, "Longest wait; 5m by default."),
    Field("jitter", "jitter", kinds.number(0, 1), "Share of the wait that is left to chance; 0.2 by default."),
    Field("only", "only", kinds.WORDS, "Error types that are retried; all by default."),
    Field("never", "never", kinds.WORDS, "Error types that are not retried."),
    required=("limit",),
)
LOCK: Final = Table(
    "a lock",
    Field("name", "name", kinds.TEXT, "Name of the lock; may hold expressions."),
    Field("shared", "shared", kinds.FLAG, "Whether other shared holders may have it too; false by default."),
    required=("name",),
)
CONCURRENCY: Final = Table(
    "`concurrency`",
    Field("key", "key", kinds.TEXT, "What is counted; may hold expressions."),
    Field("limit", "limit", kinds.number(1, 1_000_000, whole=True), "Attempts at once; 1 by default."),
    required=("key",),
)
_COUNT: Final = kinds.number(1, 1_000_000, whole=True)
RATE: Final = Table(
    "`rate`",
    Field("key", "key", kinds.TEXT, "What is counted; may hold expressions."),
    Field("per_second", "per_second", _COUNT, "Starts in a second."),
    Field("per_minute", "per_minute", _COUNT, "Starts in a minute."),
    Field("per_hour", "per_hour", _COUNT, "Starts in an hour."),
    Field("burst", "burst", kinds.number(1, 100_000, whole=True), "Starts at once after a quiet time; 1 by default."),
    required=("key",),
)
RESOURCES: Final = Table(
    "`resources`",
    Field("cpu", "cpu_milli", kinds.CORES, "Cores, such as 2 or 0.5."),
    Field("memory", "memory", kinds.SIZE, "Memory: bytes, or a size such as 512MiB."),
    Field("vram", "vram", kinds.SIZE, "GPU memory: bytes, or a size such as 8GB."),
)
PLACEMENT: Final = Table(
    "`placement`",
    Field(
        "policy",
        "policy",
        kinds.names(kinds.NAME, "a policy"),
        "How a node is chosen, such as fastest or cheapest; the fleet's setting by default.",
    ),
    Field("prefer", "prefer", _PLACES, "Nodes or labels, the first choice first; any other node when they have no room."),
    Field("affinity", "affinity", kinds.TEXT, "Tasks with one key go to one node while it has room; may hold expressions."),
    Field("cost_sensitive", "cost_sensitive", kinds.FLAG, "Choose the cheapest node that is good enough; false by default."),
    Field("cpu_intensive", "cpu_intensive", kinds.FLAG, "It keeps a core busy, and takes one; false by default."),
)
HANDLER: Final = Table("`on_failure`", Field("run", "run", TASK_NAME, "The task that takes care."), required=("run",))


def _made(kind: type[Any]) -> Callable[..., Any]:
    """Makes a struct without what equals its defaults, so that equal ones are equal bytes; None when nothing is left."""
    plain = kind()

    def make(**given: Any) -> Any:
        changed = {name: value for name, value in given.items() if value != getattr(plain, name)}
        return kind(**changed) if changed else None

    return make


_retry, _resources, _placement = _made(RetryPolicy), _made(Resources), _made(PlacementSpec)


def _write_retry(policy: RetryPolicy) -> Any:
    written = {"limit": policy.limit} | RETRY.write(policy, RetryPolicy())
    return policy.limit if len(written) == 1 else written


def _write_lock(lock: LockSpec) -> Any:
    return LOCK.write(lock, LockSpec("")) if lock.shared else lock.name


def _rate(**given: Any) -> RateSpec:
    if sum(f"per_{unit}" in given for unit in UNITS_US) != 1:
        raise Fault([((), "expected exactly one of per_second, per_minute and per_hour")])
    return RateSpec(**given)


def _write_handler(policy: str) -> Any:
    return {"run": policy.removeprefix("run:")} if policy.startswith("run:") else policy


_RETRIES: Final = kinds.or_mapping(
    Kind(lambda value: _retry(limit=_LIMIT.parse(value)), _LIMIT.schema),
    kinds.mapping_with(RETRY, _retry, _write_retry),
)
_LOCKS: Final = kinds.several(
    kinds.or_mapping(
        Kind(lambda value: LockSpec(kinds.parse_text(value)), kinds.TEXT.schema),
        kinds.mapping_with(LOCK, LockSpec, _write_lock),
    ),
    "the name of a lock",
)
_CONCURRENCY: Final = kinds.several(
    kinds.mapping_with(CONCURRENCY, ConcurrencySpec, lambda limit: CONCURRENCY.write(limit, ConcurrencySpec(""))),
    "a mapping with key and limit",
)
_RATES: Final = kinds.several(
    kinds.mapping_with(RATE, _rate, lambda rate: RATE.write(rate, RateSpec(""))),
    "a mapping with key and per_second, per_minute or per_hour",
)
_RESOURCES: Final = kinds.mapping_with(RESOURCES, _resources, lambda taken: RESOURCES.write(taken, Resources()), merges=True)
_PLACEMENT: Final = kinds.mapping_with(
    PLACEMENT, _placement, lambda wished: PLACEMENT.write(wished, PlacementSpec()), merges=True
)
_ON_FAILURE: Final = kinds.or_mapping(
    kinds.choice("fail", "cancel", "continue"),
    kinds.mapping_with(HANDLER, lambda run: f"run:{run}", _write_handler),
)


_WRITES: Final = kinds.several(kinds.TEXT, "a path or a name")
_HOLDS_NOTHING: Final = tuple((key, "it waits and holds nothing") for key in sorted(PARKED))
_NO_NODE: Final = tuple((key, "it waits and needs no node") for key in sorted(PARKED))
_ASKED: Final = (("approval", "write `deadline` inside of `approval`"),)


# -- tasks

TASK: Final = Table(
    "a task",
    Field("name", "name", TASK_NAME, "Name of the task, where tasks are a list.", alias="task_id"),
    Field("run", "call", kinds.COMMAND, "Shell line, or a list: a program and its arguments, run without a shell."),
    Field("python", "call", _FUNCTION, "Python function: module:function, or path/to/file.py:function."),
    Field("http", "call", calls.HTTP, "Request: a URL, or a mapping."),
    Field("approval", "call", calls.APPROVAL, "Question to a person, who approves or rejects: a text, or a mapping."),
    Field("uses", "call", calls.USES, "Workflow to run as a child: name, name@version, or a mapping."),
    Field("wait_for", "call", calls.WAIT_FOR, "Event to wait for: its name, or a mapping."),
    Field("with", "args", calls.ARGUMENTS, "Arguments of the function, or inputs of the child.", beside=("python", "uses")),
    Field("env", "env", _ENV, "Environment variables of the command.", beside=("run",)),
    Field("cwd", "cwd", kinds.TEXT, "Directory in which the command runs.", beside=("run",)),
    Field("needs", "needs", kinds.WORDS, "Tasks that must end before this one starts; references are added."),
    Field("map", "map", _ITEMS, "List, or an expression that gives one: one child task for each `item`."),
    Field("max_parallel", "max_parallel", kinds.number(0, 200_000, whole=True), "Children at once; 0: all.", beside=("map",)),
    Field("when", "when", _CONDITION, "Expression; the task is skipped when it is false."),
    Field("retries", "retry", _RETRIES, "Retries after a failure: how many, or a mapping with the back-off."),
    Field(
        "timeout",
        "timeout_ms",
        kinds.DURATION,
        "Longest run, or wait, of one attempt: seconds, or 90s, 5m, 1h30m; 0: no limit.",
        apart=_ASKED,
    ),
    Field("deadline", "deadline_ms", kinds.DURATION, "Latest end, counted from the start of the run; 0: none."),
    Field("priority", "priority", kinds.PRIORITY, "1 to 10, 10 most urgent, or low, normal, high, critical."),
    Field("type", "type", kinds.names(kinds.NAME, "a task type"), "Kind of work, such as testing.", alias="task_type"),
    Field(
        "requires",
        "requires",
        _CAPABILITIES,
        "What the node must have: gpu, high-memory, ssd, network, or a label.",
        apart=_NO_NODE,
    ),
    Field("resources", "resources", _RESOURCES, "What one attempt takes of its node.", apart=_NO_NODE),
    Field(
        "placement",
        "placement",
        _PLACEMENT,
        "On which of the nodes that can run it: policy, preferences, hints.",
        apart=_NO_NODE,
    ),
    Field("locks", "locks", _LOCKS, "Locks that the task holds while it runs.", apart=_HOLDS_NOTHING),
    Field(
        "concurrency",
        "concurrency",
        _CONCURRENCY,
        "How many attempts with one key may run at once in the whole fleet.",
        apart=_HOLDS_NOTHING,
    ),
    Field("rate", "rates", _RATES, "How often attempts with one key may start in the whole fleet.", apart=_HOLDS_NOTHING),
    Field("writes", "writes", _WRITES, "Paths or names of what the task changes; see `conflicts`."),
    Field("labels", "labels", kinds.TEXTS, "Free labels, for filters and lists."),
    Field("estimated_duration", "estimated_ms", kinds.DURATION, "How long it will probably take; helps the scheduler."),
    Field("on_failure", "on_failure", _ON_FAILURE, "fail (default), cancel, continue, or {run: task}."),
    Field("isolation", "isolation", kinds.choice("process"), "process: run in a process of its own.", beside=("python",)),
)
DEFAULTS: Final = Table(
    "`defaults`",
    *(field for field in TASK.fields if field.key not in ("name", "with", "needs", "map", *EXECUTORS)),
)


# -- workflows


def _parse_tasks(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple) and value:
        return value
    raise wrong(value or None, "at least one task: a mapping from names to tasks")


def _parse_defaults(value: Any) -> list[tuple[Field, Any]]:
    """The defaults as they were written, with their fields: they are merged into what each task wrote."""
    if not isinstance(value, Mapping):
        raise wrong(value, "a mapping with keys of tasks")
    faults: list[Found] = []
    DEFAULTS.read(value, faults, beside=TASK.by_key)
    if faults:
        raise Fault(faults)
    return [(DEFAULTS.by_key[key], given) for key, given in value.items()]


_TASKS: Final = Kind(_parse_tasks, {"$ref": "#/$defs/tasks"})
_DEFAULTS: Final = Kind(_parse_defaults, DEFAULTS.schema() | {"dependentSchemas": {}})
_INPUTS: Final = kinds.mapping_of(kinds.JSON, "a mapping from names to default values", _NAME)
_CONFLICTS: Final = kinds.choice("error", "warn", "allow")
_DEPENDENCIES: Final = kinds.mapping_of(kinds.WORDS, "a mapping from tasks to the tasks that they need")

WORKFLOW: Final = Table(
    "a workflow",
    Field("name", "name", kinds.names(kinds.NAME, "a workflow"), "Name of the workflow."),
    Field("description", "description", kinds.PROSE, "What it is for."),
    Field("inputs", "inputs", _INPUTS, "Inputs with their default values."),
    Field("required", "required", kinds.several(_NAME, "the name of an input"), "Inputs that every run must be given."),
    Field("tasks", "tasks", _TASKS, "Tasks by name."),
    Field("dependencies", "dependencies", _DEPENDENCIES, "Another way to write `needs`: task to list of tasks."),
    Field("defaults", "defaults", _DEFAULTS, "Keys for every task that does not set them; not for tasks they do not fit."),
    Field("output", "output", kinds.JSON, "What a run gives back: any value with expressions."),
    Field("timeout", "timeout_ms", kinds.DURATION, "Longest duration of a run; 0: no limit."),
    Field("priority", "priority", kinds.PRIORITY, "Priority of tasks that have none of their own."),
    Field("labels", "labels", kinds.TEXTS, "Free labels of each run."),
    Field("namespace", "namespace", kinds.names(kinds.NAME, "a namespace"), "Tenant to which runs belong."),
    Field("unique", "unique", kinds.TEXT, "Key: while a run with it goes on, submitting again answers with that run."),
    Field("conflicts", "conflicts", _CONFLICTS, "Tasks that may write the same at once: error (default), warn, allow."),
    required=("name", "tasks"),
)
INLINE: Final = Table(WORKFLOW.what, *WORKFLOW.fields, required=("tasks",))
"""A workflow in the `uses` of a task."""

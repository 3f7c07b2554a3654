"""Makes the generated parts of the manual anew: `make docs`.

They stand between `<!-- generated: NAME -->` and `<!-- end: NAME -->`. `generated()` gives every file that has such parts, and
those that are made as a whole, without writing anything; a test compares.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from skep import client, errors
from skep.cli.app import COMMANDS, load_command
from skep.client import nouns
from skep.client import runs as client_runs
from skep.flow import expressions, functions, timetable
from skep.hub import definitions as hub_definitions
from skep.hub import events as hub_events
from skep.hub import insight as hub_insight
from skep.hub import nodes as hub_nodes
from skep.hub import placement as hub_placement
from skep.hub import queue as hub_queue
from skep.hub import runs as hub_runs
from skep.hub import schedules as hub_schedules
from skep.hub import tasks as hub_tasks
from skep.model import calls, event, keys, kinds, schema, state, why
from skep.model.fields import Field, Kind, Table
from skep.model.run import AttemptView, RunView, TaskView
from skep.model.units import format_bytes, format_duration
from skep.node import context
from skep.router import options

ROOT = Path(__file__).parents[1]


def generated() -> dict[Path, str]:
    """Every file with generated parts, as it should be."""
    pages = {
        ROOT / "docs" / "reference.md": REFERENCE,
        ROOT / "docs" / "commands.md": {"commands": commands},
        ROOT / "docs" / "lifecycle.md": {"drawing": drawing},
        ROOT / "docs" / "why.md": {"causes": causes},
    }
    made = {page: _fill(page.read_text("utf-8"), parts) for page, parts in pages.items()}
    return {**made, ROOT / "examples" / "workflow.schema.json": schema.schema_text()}


def _fill(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    for name, make in parts.items():
        start, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise LookupError(f"there is no part '{name}'")
        text = f"{before}{start}\n{make().strip()}\n\n{end}{after}"
    return text


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def drawing() -> str:
    return f"```mermaid\n{state.drawing()}```"


def causes() -> str:
    parts = []
    for group, told in why.GROUPS.items():
        rows = [(f"`{word}`", cause.meaning, cause.remedy or "-") for word, cause in told.items()]
        parts.append(f"**{group}**\n\n{_table(('because', 'means', 'until'), rows)}")
    return "\n\n".join(parts)


# -- keys

NAMED: Sequence[tuple[Kind, str]] = (
    (kinds.DURATION, "duration"),
    (kinds.SIZE, "size"),
    (kinds.PRIORITY, "priority"),
    (kinds.CORES, "number"),
    (kinds.JSON, "any JSON"),
    (kinds.WORDS, "text or list of texts"),
    (kinds.TEXTS, "mapping of texts"),
    (kinds.COMMAND, "text or list"),
)
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "array": "list",
    "object": "mapping",
}


def keys_of(table: Table) -> str:
    def row(field: Field) -> Sequence[str]:
        names = f"`{field.key}`" + (f" (or `{field.alias}`)" if field.alias else "")
        only = f" Only with {' or '.join(f'`{key}`' for key in field.beside)}." if field.beside else ""
        needed = " Required." if field.key in table.required else ""
        apart = f" Not with {' or '.join(f'`{key}`' for key, _ in field.apart)}." if field.apart else ""
        return names, _holds(field.kind), field.doc + needed + only + apart

    return _table(("key", "holds", "what"), [row(field) for field in table.fields])


def _holds(kind: Kind) -> str:
    return next((name for known, name in NAMED if kind is known), None) or " or ".join(dict.fromkeys(_shapes(kind.schema)))


def _shapes(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield "mapping or list of tasks" if schema["$ref"].endswith("/tasks") else "mapping"
    elif "enum" in schema:
        yield " or ".join(f"`{word}`" for word in schema["enum"])
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _shapes(one)
    else:
        found = schema.get("type", "object")
        yield from (TYPES[name] for name in ([found] if isinstance(found, str) else found))


# -- expressions

WHAT_FUNCTIONS_DO = {
    "abs": "The number without its sign.",
    "all": "Whether all items of a list are true.",
    "always": "True, also when something that the task needs has failed. Only in `when`.",
    "any": "Whether an item of a list is true.",
    "bool": "`false` for 0, empty and null, else `true`.",
    "contains": "`contains(list, item)`: whether it is in there.",
    "default": "`default(value, other)`: the other one when the value is null or is not there.",
    "endswith": "`endswith(text, end)`.",
    "failed": "Whether something that the task needs has failed, or was not met; `failed('name')`: whether that task has.",
    "flatten": "A list of lists as one list.",
    "float": "A text or number as a number with a fraction.",
    "from_json": "The value in a JSON text.",
    "int": "A text or number as a whole number.",
    "join": "`join(separator, list)`: one text.",
    "json": "The value as a JSON text.",
    "keys": "The keys of a mapping.",
    "len": "The length of a text, list or mapping.",
    "lower": "The text in small letters.",
    "max": "The largest of a list, or of its arguments.",
    "min": "The smallest of a list, or of its arguments.",
    "range": "`range(end)`, `range(start, end, step)`: a list of whole numbers.",
    "round": "`round(number, digits)`.",
    "skipped": "`skipped('name')`: whether that task was.",
    "sorted": "The list in order.",
    "split": "`split(text, separator)`: a list of texts.",
    "startswith": "`startswith(text, start)`.",
    "str": "The value as a text.",
    "succeeded": "Whether all that the task needs was met; `succeeded('name')`: whether that task succeeded.",
    "sum": "The sum of a list of numbers.",
    "upper": "The text in capitals.",
    "values": "The values of a mapping.",
    "zip": "`zip(list, list)`: a list of pairs.",
}
WHAT_NAMES_ARE = {
    "inputs": "The run's inputs: `inputs.NAME`.",
    "tasks": "Others: `tasks.NAME.output`, `.state`; `.error` with `type` and `message`, of a failed one. It makes the edge.",
    "item": "The item of a child of a map.",
    "index": "Its position, from 0.",
    "run": "The run: `run.id`, `run.workflow`, `run.namespace`.",
    "secrets": "Secrets, filled in on the node: `secrets.NAME`. Only in `run`, `env`, `cwd`, `http` and a function's `with`.",
}


def names() -> str:
    _same(WHAT_NAMES_ARE, expressions.ROOTS)
    return _table(("name", "what"), [(f"`{name}`", text) for name, text in WHAT_NAMES_ARE.items()])


def operators() -> str:
    signs = dict.fromkeys(f"`{sign}`" for sign, _ in functions.OPERATORS.values())
    return f'{" ".join(signs)} `and` `or` `x if y else z` `a.key` `a["key"]` `a[0]` `a[1:]` `[…]` `{{…}}`'


def function_table() -> str:
    _same(WHAT_FUNCTIONS_DO, functions.ARITY)

    def arguments(name: str) -> str:
        least, most = functions.ARITY[name]
        return str(least) if least == most else f"{least} to {most}"

    rows = [(f"`{name}`", arguments(name), text) for name, text in sorted(WHAT_FUNCTIONS_DO.items())]
    return _table(("function", "arguments", "what"), rows)


def _same(described: Mapping[str, str], known: Any) -> None:
    if set(described) != set(known):
        raise LookupError(f"described and known differ in {set(described) ^ set(known)}")


# -- what a program meets

EXIT_CODES = {
    0: "ok",
    1: "the run failed, or Skep did",
    2: "usage: an option or argument is wrong",
    3: "refused: the workflow, its inputs or the data directory; nothing was accepted; or its record failed",
    4: "cancelled: Ctrl-C, SIGTERM",
    5: "timed out: the run's `timeout`",
    6: "no server answers, or it answers something else",
}


def exit_codes() -> str:
    raised: dict[int, list[str]] = {code: [] for code in EXIT_CODES}
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.SkepError):
            raised[kind.exit_code].append(f"`{name}`")
    raised[4] = raised[5] = ["`RunFailedError`"]
    raised[client.UnreachableError.exit_code].append("`UnreachableError`")
    return _table(
        ("code", "means", "errors"), [(str(code), text, ", ".join(raised[code])) for code, text in EXIT_CODES.items()]
    )


def error_classes() -> str:
    found = [
        (name, kind) for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.SkepError)
    ]
    return _table(("error", "raised when"), [(f"`{name}`", _first_sentence(kind)) for name, kind in found])


ERROR_TYPES = {
    "Busy": "A server answered 429 or 503; `Retry-After` is kept to. Also under the name `Status`.",
    "Cancelled": "The attempt was stopped: the run was cancelled, or the process ended.",
    "ChildFailed": "The child run of a task with `uses` did not succeed.",
    "Connect": "No connection to a server could be made. Also under the name `Connection`.",
    "Connection": "A connection broke off, or nothing came for too long.",
    "Deadline": "The task's `deadline` was over.",
    "Executor": "The node does not run this kind of task.",
    "ExitCode": "The command ended with another exit code than 0; `exit_code` has it.",
    "Expression": "An expression did not work out with the values of this run.",
    "Gateway": "A server answered 502 or 504. Also under the name `Status`.",
    "Import": "The function was not found, or its module raised while it was imported. Never tried again.",
    "Map": "`map` gave something that is no list, or too many items.",
    "NotFound": "The program or the working directory is not there.",
    "Output": "The output of a task that this one reads cannot be had any more.",
    "Refused": "The child run of a task with `uses` was not accepted: no such workflow, wrong inputs, nested too deep.",
    "Rejected": "A person rejected it. Never tried again.",
    "Request": "A request that cannot be sent: no URL, a header with a line break.",
    "Response": "A response that is too large, is not what it says, or points in a circle.",
    "Result": "What the task gave is not JSON, or too large.",
    "Secrets": "The node lacks a secret. Never tried again.",
    "Signal": "The command was ended by a signal; `signal` has its number.",
    "SpawnError": "The command could not be started.",
    "Status": "A server answered with a status that was not expected.",
    "Stub": "Only in `skep.testing.run`: a command or request for which the test has no stub.",
    "Timeout": "The attempt's `timeout` was over, or the `deadline` of a question.",
    "WorkerDied": "The worker process of an isolated function ended before the function did.",
}


def error_types() -> str:
    rows = [(f"`{name}`", text) for name, text in ERROR_TYPES.items()]
    return _table(("type", "when"), [*rows, ("any other", "The class of the exception that the function raised.")])


FIELDS: Mapping[type, Mapping[str, str]] = {
    RunView: {
        "id": "UUID; sorts by time",
        "workflow": "name of the workflow",
        "state": "`queued`, `running`, `cancelling`, `succeeded`, `failed`, `cancelled`",
        "reason": "why it did not succeed: `task_failed`, `timeout`, `interrupted`, `cancelled`, `abandoned`",
        "namespace": "tenant",
        "priority": "priority of the run",
        "labels": "labels of the workflow and of the run",
        "inputs": "the inputs, defaults filled in",
        "output": "what the run gave back",
        "accepted_ms": "when it was on disk",
        "started_ms": "when the engine took it up",
        "finished_ms": "when its last task had ended",
        "cost": "of its attempts that are over, in the unit of the nodes' `cost_per_hour`",
        "tasks": "all tasks in the order of the workflow, the children of a map right after it",
    },
    TaskView: {
        "name": "name; `parent[0]` for a child of a map",
        "state": "`waiting`, `delayed`, `ready`, `running`, `parked`, `succeeded`, `failed`, `cancelled`, `skipped`",
        "index": "its number within the run, by which events name it",
        "attempts": "how many there were",
        "node": "where the last one ran",
        "reason": "why it ended as it did, where there is no `error`: `when`, `upstream`, `run_failed`, `child_failed`, …",
        "started_ms": "start of the last attempt; of a map, of its first child",
        "finished_ms": "end",
        "output": "what it gave",
        "error": "`type`, `message`, and where known `traceback`, `exit_code`, `signal`, `parents`",
        "history": "every attempt, oldest first",
    },
    AttemptView: {
        "attempt": "number, from 1",
        "state": "how it ended",
        "node": "where it ran",
        "token": "names it for ever",
        "started_ms": "start",
        "finished_ms": "end",
        "error": "as that of the task",
        "cost": "as that of the run; left out where it cost nothing",
    },
}


def document() -> str:
    parts = []
    for kind, described in FIELDS.items():
        _same(described, kind.__struct_fields__)
        hints = typing.get_type_hints(kind)
        rows = [(f"`{name}`", _type_name(hints[name]), text) for name, text in described.items()]
        title = {RunView: "A run", TaskView: "A task, in `tasks`", AttemptView: "An attempt, in `history`"}[kind]
        parts.append(f"{title}:\n\n{_table(('field', 'type', 'what'), rows)}")
    return "\n\n".join(parts)


def _type_name(hint: Any) -> str:
    if hint is Any:
        return "any JSON"
    simple = {str: "text", int: "number", float: "number", dict[str, str]: "mapping", type(None): "null"}
    if hint in simple:
        return simple[hint]
    if typing.get_origin(hint) is list:
        return "list"
    return " or ".join(_type_name(one) for one in typing.get_args(hint))


# -- the context of a task


def context_table() -> str:
    rows: list[tuple[str, str]] = []
    for prefix, kind in (
        ("context.", context.TaskContext),
        ("context.checkpoint.", context.Checkpoint),
        ("context.state.", context.SharedState),
    ):
        for name, member in vars(kind).items():
            if name.startswith("_") or not (callable(member) or isinstance(member, property)):
                continue
            shown = f"{prefix}{name}" + ("" if isinstance(member, property) else _signature(member))
            rows.append((f"`{shown}`", _first_sentence(member)))
    rows += [(f"`context.{name}`", text) for name, text in PLAIN_MEMBERS.items()]
    return _table(("call", "what"), rows)


PLAIN_MEMBERS = {
    "attempt": "The number of this attempt: 1 for the first try.",
    "run_id": "The id of the run.",
    "task_name": "The name of the task.",
}


def _signature(member: Any) -> str:
    found = inspect.signature(member)
    shown = [one.replace(annotation=one.empty) for name, one in found.parameters.items() if name != "self"]
    return str(found.replace(parameters=shown, return_annotation=found.empty))


def _first_sentence(member: Any) -> str:
    text = " ".join((inspect.getdoc(member) or "").split())
    return re.split(r"(?<=[.:])\s(?=[A-Z])", text)[0].replace(" (see the table in docs/reference.md)", "")


# -- the client


def client_table() -> str:
    """What the client does not say of a method, the hub says: it has the same nouns."""
    rows = [(f"`submit{_signature(client.Client.submit)}`", _first_sentence(client.Client.submit))]
    for noun, (asked, answering) in NOUNS.items():
        for name, member in vars(asked).items():
            if not name.startswith("_") and callable(member):
                text = _first_sentence(member) or _first_sentence(getattr(answering, name))
                rows.append((f"`{noun}.{name}{_signature(member)}`", text))
    for name, member in vars(client.Handle).items():
        if not name.startswith("_") and callable(member):
            rows.append((f"`Handle.{name}{_signature(member)}`", _first_sentence(member)))
    return _table(("call", "what"), rows)


NOUNS: Mapping[str, tuple[type, type]] = {
    "runs": (client_runs.Runs, hub_runs.Runs),
    "tasks": (nouns.Tasks, hub_tasks.Tasks),
    "nodes": (nouns.Nodes, hub_nodes.Nodes),
    "queue": (nouns.Queue, hub_queue.Queue),
    "placement": (nouns.Placement, hub_placement.Placement),
    "definitions": (nouns.Definitions, hub_definitions.Definitions),
    "schedules": (nouns.Schedules, hub_schedules.Schedules),
    "events": (nouns.Events, hub_events.Events),
    "insight": (nouns.Insight, hub_insight.Insight),
}


# -- events, limits, commands


def events() -> str:
    return "\n".join(line for line in (event.__doc__ or "").splitlines() if line.startswith("|"))


def _size(value: int) -> str:
    return format_bytes(value)


def _count(value: int) -> str:
    return f"{value:,}"


def _ms(value: int) -> str:
    return format_duration(value)


def _seconds(value: float) -> str:
    return format_duration(int(value * 1000))


LIMITS: Sequence[tuple[str, str, Callable[[Any], str], str]] = (
    ("skep.model.run", "MAX_TASKS", _count, "Tasks in one run, map children included; live tasks in one engine."),
    ("skep.sdk.yaml", "MAX_BYTES", _size, "Size of a workflow file."),
    ("skep.sdk.yaml", "MAX_DEPTH", _count, "Levels of nesting in a workflow file."),
    ("skep.sdk.yaml", "MAX_ALIASED", _count, "Values that the aliases of a file may repeat."),
    ("skep.model.kinds", "MAX_NAME", _count, "Characters of a name."),
    ("skep.model.authoring", "MAX_PROBLEMS", _count, "Problems that one error lists."),
    ("skep.hub.runs", "MAX_INPUTS", _size, "Inputs of a run, as JSON."),
    ("skep.flow.expressions", "MAX_SOURCE", _count, "Characters of one expression."),
    ("skep.flow.expressions", "MAX_DEPTH", _count, "Levels of nesting in an expression."),
    ("skep.flow.expressions", "MAX_NODES", _count, "Parts of an expression."),
    ("skep.flow.evaluation", "MAX_STEPS", _count, "Items that one evaluation may look at."),
    ("skep.flow.functions", "MAX_TEXT", _count, "Characters of a text that an expression makes."),
    ("skep.flow.functions", "MAX_ITEMS", _count, "Items of a list that an expression makes."),
    ("skep.node.attempt", "MAX_OUTPUT", _size, "Output that is kept in the record; a larger one becomes an artifact."),
    ("skep.node.functions", "MAX_RESULT", _size, "Output of a function, as JSON."),
    ("skep.node.executors.shell", "MAX_RESULT", _size, "Output of a command, in `$SKEP_OUTPUT`."),
    ("skep.node.executors.shell", "CAPTURE_BYTES", _size, "Standard output, where that is the output."),
    ("skep.model.calls", "DEFAULT_BODY", _size, "Response to a request, where `max_bytes` does not say."),
    ("skep.model.calls", "MAX_BODY", _size, "Response to a request that `max_bytes` may allow."),
    ("skep.node.executors.client", "CONNECT_S", _seconds, "For the connection of a request."),
    ("skep.node.executors.client", "IDLE_S", _seconds, "How long nothing may come on the connection of a request."),
    ("skep.node.executors.client", "MAX_REDIRECTS", _count, "Redirects that a request follows."),
    ("skep.node.executors.request", "MAX_RETRY_AFTER_MS", _ms, "Longest `Retry-After` that is kept to."),
    ("skep.model.authoring", "MAX_NESTING", _count, "Levels of runs below a run."),
    ("skep.node.context", "SAVE_LIMIT", _size, "One checkpoint; one value of the shared state."),
    ("skep.node.logs", "LOG_CAP", _size, "Log kept of each stream of one attempt; what follows is thrown away."),
    ("skep.node.functions", "MAX_MESSAGE", _count, "Characters of an error's message."),
    ("skep.node.functions", "MAX_TRACEBACK", _count, "Characters of an error's traceback; its end is kept."),
    ("skep.node.executors.shell", "GRACE_MS", _ms, "Between SIGTERM and SIGKILL for a command that is stopped."),
    ("skep.node.executors.isolated", "GRACE_MS", _ms, "For an isolated function that is stopped, until it is killed."),
    ("skep.node.executors.python", "GRACE_S", _seconds, "For a function that is stopped, until it is left behind."),
    ("skep.node.executors.isolated", "RECYCLE_AFTER", _count, "Attempts after which a worker process is replaced."),
    ("skep.node.secrets", "MIN_SECRET", _count, "Characters below which a secret is not masked."),
    ("skep.node.probe", "SLOTS", _count, "Tasks that one local node runs at once, where `--node` does not say."),
    ("skep.engine.protocol", "RELEASE_LIMIT", _count, "Tasks released in one step of the engine."),
    ("skep.upkeep.place", "BACKLOG", _count, "Unrecorded events beyond which nothing more starts."),
    ("skep.server.answers", "MAX_BODY", _size, "One request to a server."),
    ("skep.hub.views", "MOST", _count, "Tasks in one page."),
    ("skep.hub.tasks", "SHOWN", _count, "Waits in one list."),
    ("skep.hub.events", "MAX_DATA", _size, "What an event brings along, as JSON."),
    ("skep.hub.events", "MAX_WORD", _count, "Characters of an event's name, key or id."),
    ("skep.hub.tasks", "MAX_DATA", _size, "The answer to a question, as JSON."),
    ("skep.hub.tasks", "MAX_COMMENT", _count, "Characters of the comment on a decision."),
    ("skep.hub.tasks", "MAX_BY", _count, "Characters of who decides."),
    ("skep.hub.answered", "LIMIT_S", _seconds, "For holding an answer against a form with a `pattern`."),
    ("skep.flow.timetable", "EVERY_LEAST_MS", _ms, "Shortest interval of a schedule."),
    ("skep.flow.firing", "MISSED_MS", _ms, "How late a schedule may fire and still be on time."),
    ("skep.flow.firing", "MOST", _count, "Times of a schedule that wait, or are caught up with."),
    ("skep.upkeep.rejoin", "WINDOW_S", _seconds, "For nodes to bring their work to a server that was started again."),
    ("skep.server.link", "BACK_S", _seconds, "For a node whose connection ended to come back."),
    ("skep.server.link", "ALL_BACK_S", _seconds, "The same, when the connections of all nodes ended at once."),
    ("skep.node.remote", "FENCE_S", _seconds, "After this long without a server a node ends attempts that hold a lock."),
    ("skep.node.remote", "ALONE_S", _seconds, "How long other attempts go on without a server."),
    ("skep.node.supervisor", "IDLE_S", _seconds, "How long a local node stays that has no server and no work."),
    ("skep.upkeep.prune", "KEEP_MS", _ms, "How long an ended run is kept, where `skep up --keep` does not say."),
    ("skep.record.prune", "SIGNAL_MS", _ms, "How long an event is kept for those that may wait for it."),
    ("skep.record.prune", "NODE_MS", _ms, "How long a node that has left is remembered."),
    ("skep.record.prune", "ORPHAN_MS", _ms, "How long an artifact without a run is kept."),
)


def limits() -> str:
    rows = [(text, show(getattr(import_module(module), name)), f"`{module}.{name}`") for module, name, show, text in LIMITS]
    return _table(("what", "limit", "name"), rows)


def commands() -> str:
    parts: list[str] = []
    panel = ""
    for name, entry in COMMANDS.items():
        if entry.panel != panel:
            panel = entry.panel
            parts.append(f"## {panel}")
        command = load_command(name)
        below = getattr(command, "commands", None)
        if below:
            parts.append(f"### skep {name}\n\n{inspect.cleandoc(command.help or '')}")
        for title, found in [(f"{name} {sub}", one) for sub, one in below.items()] if below else [(name, command)]:
            parts.append(_command(title, found, "####" if below else "###"))
    return "\n\n".join(parts)


def _command(title: str, command: Any, heading: str) -> str:
    text = inspect.cleandoc(command.help or "")
    rows = []
    for param in command.params:
        if param.name == "help":
            continue
        is_option = param.param_type_name == "option"
        shown = ", ".join(f"`{name}`" for name in param.opts) if is_option else f"`{param.name.upper()}`"
        if is_option and param.metavar:
            shown += f" `{param.metavar}`"
        rows.append((shown, param.help or ""))
    return f"{heading} skep {title}\n\n{text}" + (f"\n\n{_table(('argument or option', 'what'), rows)}" if rows else "")


REFERENCE: Mapping[str, Callable[[], str]] = {
    "workflow keys": lambda: keys_of(keys.WORKFLOW),
    "task keys": lambda: keys_of(keys.TASK),
    "http keys": lambda: keys_of(calls.TABLES["http"]),
    "approval keys": lambda: keys_of(calls.TABLES["approval"]),
    "uses keys": lambda: keys_of(calls.TABLES["uses"]),
    "wait_for keys": lambda: keys_of(calls.TABLES["wait_for"]),
    "retry keys": lambda: keys_of(keys.RETRY),
    "lock keys": lambda: keys_of(keys.LOCK),
    "concurrency keys": lambda: keys_of(keys.CONCURRENCY),
    "rate keys": lambda: keys_of(keys.RATE),
    "resource keys": lambda: keys_of(keys.RESOURCES),
    "placement keys": lambda: keys_of(keys.PLACEMENT),
    "handler keys": lambda: keys_of(keys.HANDLER),
    "placement settings": lambda: keys_of(options.SETTINGS),
    "placement weights": lambda: keys_of(options.WEIGHTS),
    "names": names,
    "operators": operators,
    "functions": function_table,
    "schedule options": lambda: keys_of(timetable.OPTIONS),
    "context": context_table,
    "client": client_table,
    "document": document,
    "exit codes": exit_codes,
    "errors": error_classes,
    "error types": error_types,
    "events": events,
    "limits": limits,
}


if __name__ == "__main__":
    for path, text in generated().items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"renewed {path.relative_to(ROOT)}")

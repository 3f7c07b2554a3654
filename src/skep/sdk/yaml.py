"""Workflows in YAML and JSON files: read with the line of every problem, and written.

Plain words are read as in JSON: `true`, `false`, `null` and numbers. Everything else is a text, so `on`, `no`, `1:30`, `0755`
and `2024-01-01` are what they look like. Aliases are followed, within bounds; tags and merge keys are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from skep.errors import Problem, SpecError
from skep.model.authoring import build_workflow, spec_to_data
from skep.model.fields import show_path
from skep.model.spec import WorkflowSpec

MAX_BYTES: Final = 64 << 20
"""Size of a file."""
MAX_DEPTH: Final = 100
"""Levels of nesting in a file."""
MAX_ALIASED: Final = 1_000_000
"""Values that the aliases of a file may repeat in all: a few lines of them can stand for billions."""

_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][-+]?[0-9]+)?")
_WORDS: Final = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}


def load_file(path: str | Path) -> WorkflowSpec:
    """The workflow in a YAML or JSON file. Raises SpecError, also when it cannot be read."""
    return load_text(read_file(path), str(path))


def read_file(path: str | Path) -> str:
    """The text of a workflow file. Raises SpecError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SpecError([Problem("", f"is larger than {MAX_BYTES >> 20} MiB")], str(path))
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SpecError([Problem("", f"cannot be read: {error.strerror or error}")], str(path)) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError([Problem("", f"expected UTF-8, found byte 0x{data[error.start]:02x}", line)], str(path)) from None


def load_text(text: str, source: str = "") -> WorkflowSpec:
    """The workflow in a YAML or JSON text; `source` names it in errors. Raises SpecError with the line of every problem."""
    data = read_data(text, source)
    try:
        return build_workflow(data, source=source)
    except SpecError as error:
        raise with_lines(error, text, source) from None


def with_lines(error: SpecError, text: str, source: str = "") -> SpecError:
    """The same error with the line of each problem that has a path: for one that `compile_plan` raised about this text."""
    lines: dict[str, int] = {}
    try:
        _listed_too(_Reader(text, source, lines).document(), lines)
    except SpecError:  # JSON that is not quite YAML: the lines up to there are known
        pass
    problems = [problem._replace(line=problem.line or _line(problem.path, lines)) for problem in error.problems]
    return SpecError(problems, source or error.source)


def dump(spec: WorkflowSpec) -> str:
    """The workflow as YAML; `load_text(dump(spec)) == spec`."""
    return yaml.dump(spec_to_data(spec), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_data(text: str, source: str = "") -> Any:
    """The data of a YAML or JSON text, as plain as JSON. Raises SpecError with the line of what cannot be read."""
    if text.lstrip().startswith("{"):
        try:
            data = json.loads(text, object_pairs_hook=_unique)
            if not _is_deep(data):
                return data
        except (ValueError, RecursionError):  # YAML, or a mistake: the reader below knows its line
            pass
    return _Reader(text, source).document()


def _is_deep(value: Any) -> bool:
    """Whether it has more than MAX_DEPTH levels: not every Python's JSON reader has a bound."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made


def _line(path: str, lines: Mapping[str, int]) -> int | None:
    """The line of the path, or of the nearest value around it that is in the file."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path)


def _listed_too(data: Any, lines: dict[str, int]) -> None:
    """Adds the lines of tasks in a list under their names, by which problems call them."""
    tasks = data.get("tasks") if isinstance(data, dict) else None
    if isinstance(tasks, list):
        named = {f"tasks[{at}]": f"tasks.{row.get('name')}" for at, row in enumerate(tasks) if isinstance(row, dict)}
        for path, line in list(lines.items()):
            start, bracket, rest = path.partition("]")
            if name := named.get(start + bracket):
                lines.setdefault(name + rest, line)


def _plain(text: str) -> Any:
    """What a text without quotes stands for."""
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text
    whole = not (number["fraction"] or number["exponent"])
    return int(text) if whole and len(text) < 4_000 else float(text)  # int() refuses texts that are longer still


def _explain(error: yaml.YAMLError, text: str, line: int | None) -> str:
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    shown = text.splitlines()[line - 1 : line] if line else []
    hint = "; a text with ${{ }} inside of { } or [ ] needs quotes" if any("${{" in row for row in shown) else ""
    return f"{reason}{hint}"


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes what `_plain` would not read as a text in quotes, repeats instead of aliases, and shows lines as lines."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def show_text(self, text: str) -> yaml.ScalarNode:
        made: yaml.ScalarNode = self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
        return made


_Dumper.add_representer(str, _Dumper.show_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_NUMBER.pattern})$"), list("-0123456789"))


class _Reader:
    """Builds the data of one document out of the parser's events; a tree of nodes would take ten times the memory.

    With `lines`, it notes there on which line the key at each path stands.
    """

    def __init__(self, text: str, source: str, lines: dict[str, int] | None = None) -> None:
        self.text = text
        self.source = source
        self.lines = lines
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.values = 0
        """How many values were read, repeated ones counted again."""
        self.aliased = 0
        self.event: Any = None

    def document(self) -> Any:
        """The data. Raises SpecError."""
        try:
            return self.read()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else None
            if "nesting depth" in str(error):  # the parser has a bound of its own, and looks ahead
                raise self.refusal(f"is nested deeper than {MAX_DEPTH} levels", line) from None
            raise self.refusal(f"is not valid YAML: {_explain(error, self.text, line)}", line) from None
        except UnicodeEncodeError:
            raise self.refusal("is not valid Unicode", None) from None

    def read(self) -> Any:
        loader = _Loader(self.text)
        try:
            events: Iterator[Any] = iter(loader.get_event, None)
            for kind in (yaml.StreamStartEvent, yaml.DocumentStartEvent):
                self.event = next(events)
                if not isinstance(self.event, kind):
                    raise self.refusal("is empty, expected a mapping with `name` and `tasks`", None)
            self.event = next(events)
            data = self.value(events, (), 1)
            self.event = next(events)  # the end of the document
            self.event = next(events)
            if not isinstance(self.event, yaml.StreamEndEvent):
                raise self.refusal("found a second document, expected one")
            return data
        finally:
            loader.dispose()

    def value(self, events: Iterator[Any], path: tuple[str | int, ...], depth: int) -> Any:
        """The value that starts with the current event."""
        event = self.event
        self.values += 1
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.tag is not None and event.tag not in ("!", "tag:yaml.org,2002:str"):
            raise self.refusal(f"found the tag {event.tag}, expected a plain value")
        if depth > MAX_DEPTH:
            raise self.refusal(f"is nested deeper than {MAX_DEPTH} levels")
        before = self.values
        if isinstance(event, yaml.ScalarEvent):
            made: Any = _plain(event.value) if event.implicit[0] and event.tag is None else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            made = self.sequence(events, path, depth)
        else:
            made = self.mapping(events, path, depth)
        if event.anchor:
            self.anchors[event.anchor] = made, self.values - before + 1
        return made

    def alias(self, event: Any) -> Any:
        if event.anchor not in self.anchors:
            raise self.refusal(f"found the alias *{event.anchor} without, or inside of, the value &{event.anchor}")
        made, size = self.anchors[event.anchor]
        self.values += size
        self.aliased += size
        if self.aliased > MAX_ALIASED:
            raise self.refusal(f"repeats more than {MAX_ALIASED:,} values by aliases")
        return made

    def sequence(self, events: Iterator[Any], path: tuple[str | int, ...], depth: int) -> list[Any]:
        made: list[Any] = []
        for self.event in events:
            if isinstance(self.event, yaml.SequenceEndEvent):
                break
            self.note((*path, len(made)))
            row = self.value(events, (*path, len(made)), depth + 1)
            made.append(row)
        return made

    def mapping(self, events: Iterator[Any], path: tuple[str | int, ...], depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for self.event in events:
            if isinstance(self.event, yaml.MappingEndEvent):
                break
            if not isinstance(self.event, yaml.ScalarEvent):
                raise self.refusal("found a key that is no text")
            key = self.event.value  # as it is written: a task may be called `on` or `null`
            if key in made:
                raise self.refusal(f"has the key '{key}' twice", path=path)
            if key == "<<" and self.event.implicit[0]:
                raise self.refusal("merge keys (<<) are not supported; put what tasks share under `defaults`", path=path)
            self.note((*path, key))
            self.event = next(events)
            made[key] = self.value(events, (*path, key), depth + 1)
        return made

    def note(self, path: tuple[str | int, ...]) -> None:
        if self.lines is not None:
            self.lines.setdefault(show_path(path), self.event.start_mark.line + 1)

    def refusal(self, message: str, line: int | None = -1, path: tuple[str | int, ...] = ()) -> SpecError:
        here = self.event.start_mark.line + 1 if line == -1 else line
        return SpecError([Problem(show_path(path), message, here)], self.source)

"""The kinds of values in a workflow: texts, names, commands, lists, mappings, numbers with and without units, JSON trees."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any, Final

from skep.model import units
from skep.model.fields import MAX_INT, Fault, Found, Kind, Table, nearest, same, wrong

MAX_DEPTH: Final = 100
"""Levels of nesting in a value."""
MAX_NAME: Final = 200
"""Characters of a name."""
TASK_NAME: Final = r"[A-Za-z_][A-Za-z0-9_.-]*"
NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""Workflows and namespaces; unlike a task's, their names are in no expression and may start with a digit."""


# -- texts and names


def parse_text(value: Any) -> str:
    """A text that a shell and every JSON reader take: not empty, no NUL, valid Unicode."""
    if isinstance(value, str) and value and (value.isascii() or _is_unicode(value)) and "\0" not in value:
        return value
    if isinstance(value, int | float):
        raise wrong(value, "a text: write it in quotes")
    raise wrong(value, "a text that is not empty, in valid Unicode and without NUL")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _parse_prose(value: Any) -> str:
    return "" if value == "" else parse_text(value)


def parse_word(value: Any) -> str:
    """A text; a whole number is taken as one. A fraction is not: `1.10` in YAML has lost its last digit already."""
    return str(value) if type(value) is int and abs(value) <= MAX_INT else _parse_prose(value)


def names(pattern: str, what: str) -> Kind:
    """Names that match the pattern, up to 200 characters."""
    matches = re.compile(pattern).fullmatch

    def parse(value: Any) -> str:
        if isinstance(value, str) and len(value) <= MAX_NAME and matches(value):
            return value
        expected = "letters, digits, '_', '.', '-', not first a '.', '-'" + (" or digit" * (pattern == TASK_NAME))
        raise wrong(value, f"the name of {what}: {expected}, up to {MAX_NAME} characters")

    return Kind(parse, {"type": "string", "pattern": f"^{pattern}$", "maxLength": MAX_NAME})


def choice(*words: str) -> Kind:
    """One of a few words."""

    def parse(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise wrong(value, f"one of {', '.join(words)}{nearest(value, words)}" if len(words) > 1 else words[0])

    return Kind(parse, {"enum": list(words)})


TEXT: Final = Kind(parse_text, {"type": "string", "minLength": 1})
PROSE: Final = Kind(_parse_prose, {"type": "string"})


def each(parse: Callable[[Any], Any], values: Iterable[Any]) -> tuple[Any, ...]:
    """Every value parsed. Raises Fault with the faults of all of them."""
    parsed: list[Any] = []
    faults: list[Found] = []
    for value in values:
        try:
            parsed.append(parse(value))
        except Fault as fault:
            faults += _below(len(parsed), fault)
            parsed.append(None)  # so that the length stays the position
    if faults:
        raise Fault(faults)
    return tuple(parsed)


def members(parse_key: Callable[[Any], str], parse: Callable[[Any], Any], values: Mapping[Any, Any]) -> dict[str, Any]:
    """Every key and value parsed. Raises Fault with the faults of all of them."""
    parsed: dict[str, Any] = {}
    faults: list[Found] = []
    for key, value in values.items():
        try:
            parsed[parse_key(key)] = parse(value)
        except Fault as fault:
            faults += _below(str(key), fault)
    if faults:
        raise Fault(faults)
    return parsed


def _below(step: str | int, fault: Fault) -> list[Found]:
    return [((step, *path), message) for path, message in fault.found]


def mapping_with(table: Table, make: Callable[..., Any], write: Callable[[Any], Any], merges: bool = False) -> Kind:
    """A mapping with the keys of a table, from whose attributes `make` makes the value."""

    def parse(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(value, f"a mapping with {table.keys}")
        faults: list[Found] = []
        attributes = table.read(value, faults)
        if faults:
            raise Fault(faults)
        return make(**attributes)

    return Kind(parse, table.schema(), write, merges)


def or_mapping(short: Kind, long: Kind) -> Kind:
    """A value with a short form beside the mapping that can say everything; `long` writes both."""
    schema = {"anyOf": [short.schema, long.schema]}
    return Kind(lambda value: (long if isinstance(value, Mapping) else short).parse(value), schema, long.write)


def several(item: Kind, what: str) -> Kind:
    """One item or a list of them; repeated ones count once."""

    def parse(value: Any) -> tuple[Any, ...]:
        if isinstance(value, list | tuple):
            return tuple(dict.fromkeys(each(item.parse, value)))
        if isinstance(value, str | Mapping):
            return (item.parse(value),)
        raise wrong(value, f"{what}, or a list of them")

    schema = {"anyOf": [item.schema, {"type": "array", "items": item.schema}]}
    return Kind(parse, schema, lambda parsed: [item.write(one) for one in parsed])


WORDS: Final = several(TEXT, "a text")


def mapping_of(value_kind: Kind, what: str, key_kind: Kind = TEXT, merges: bool = False) -> Kind:
    """A mapping from texts to values of one kind; None when it is empty."""

    def parse(value: Any) -> dict[str, Any] | None:
        if not isinstance(value, Mapping):
            raise wrong(value, what)
        return members(key_kind.parse, value_kind.parse, value) or None

    def write(parsed: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value_kind.write(inner) for key, inner in parsed.items()}

    schema = {"type": "object", "propertyNames": key_kind.schema, "additionalProperties": value_kind.schema}
    return Kind(parse, schema, write, merges)


WORD: Final = Kind(parse_word, {"type": ["string", "integer"]})
TEXTS: Final = mapping_of(WORD, "a mapping from names to texts", merges=True)


def _parse_command(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return parse_text(value)
    if isinstance(value, list | tuple) and value and value[0] != "":
        return each(parse_word, value)
    raise wrong(value, "a shell line, or a list: a program and its arguments")


COMMAND: Final = Kind(
    _parse_command,
    {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": WORD.schema, "minItems": 1}]},
    lambda call: list(call) if isinstance(call, tuple) else call,
)


def matching(pattern: str, expected: str) -> Kind:
    """A text that matches the pattern as a whole."""
    matches = re.compile(pattern).fullmatch

    def parse(value: Any) -> str:
        if isinstance(value, str) and _is_unicode(value) and matches(value):
            return value
        raise wrong(value, expected)

    return Kind(parse, {"type": "string", "pattern": f"^(?:{pattern})$"})


def _parse_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise wrong(value, "true or false")


FLAG: Final = Kind(_parse_flag, {"type": "boolean"})


# -- numbers


def number(least: float, most: float, whole: bool = False) -> Kind:
    """A number in a range, both ends included. A `whole` one is an int, else it becomes a float."""

    def parse(value: Any) -> Any:
        right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if right and least <= value <= most:
            return value if whole else float(value)
        raise wrong(value, f"a {'whole ' * whole}number from {least:g} to {most:,}")

    return Kind(parse, {"type": "integer" if whole else "number", "minimum": least, "maximum": most})


def _unit(read: Callable[[Any], int], schema: Mapping[str, Any], *writers: Callable[[int], Any]) -> Kind:
    """A number with a unit. Of the writers, the first whose text reads as the very same number writes it."""
    remember = lru_cache(maxsize=1024, typed=True)(read)  # typed: 1, 1.0 and true are equal, and not the same

    def parse(value: Any) -> int:
        try:
            return remember(value) if isinstance(value, str | int | float) else read(value)
        except ValueError as error:
            raise Fault([((), str(error))]) from None

    return Kind(parse, schema, lambda parsed: next(text for write in writers if read(text := write(parsed)) == parsed))


def _duration_ms(value: Any) -> int:
    if isinstance(value, timedelta):
        value = f"{-(value // -timedelta(milliseconds=1))}ms"  # rounded up, as everywhere
    return units.parse_duration_ms(value)


DURATION: Final = _unit(
    _duration_ms,
    {"type": ["string", "number"], "pattern": "^\\s*[P0-9]", "minimum": 0},
    units.format_duration,
    lambda ms: f"{ms}ms",
)
SIZE: Final = _unit(
    units.parse_bytes, {"type": ["string", "integer"], "pattern": "^\\s*[0-9]", "minimum": 0}, units.format_bytes, same
)
_PRIORITY_SCHEMA: Final = [
    {"type": "integer", "minimum": units.MIN_PRIORITY, "maximum": units.MAX_PRIORITY},
    {"enum": [*units.PRIORITIES]},
]
PRIORITY: Final = _unit(units.parse_priority, {"anyOf": _PRIORITY_SCHEMA}, same)


def _parse_cores(value: Any) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1_000_000:
        return int((Decimal(repr(value)) * 1_000).to_integral_value(ROUND_CEILING))
    raise wrong(value, "a number of cores from 0 to 1,000,000, such as 0.5")


CORES: Final = Kind(
    _parse_cores,
    {"type": "number", "minimum": 0, "maximum": 1_000_000},
    lambda milli: milli // 1_000 if milli % 1_000 == 0 else milli / 1_000,
)


# -- JSON trees


def parse_json(value: Any, depth: int = 1) -> Any:
    """A JSON tree: mappings become dicts with text keys, sequences lists. Raises Fault for anything else."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value.isascii() or _is_unicode(value):
            return value
        raise wrong(value, "a text in valid Unicode")
    if isinstance(value, int) and abs(value) <= MAX_INT:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if depth >= MAX_DEPTH:
        raise Fault([((), f"is nested deeper than {MAX_DEPTH} levels")])
    if isinstance(value, Mapping):
        return members(_parse_key, lambda inner: parse_json(inner, depth + 1), value)
    if isinstance(value, list | tuple):
        return list(each(lambda inner: parse_json(inner, depth + 1), value))
    raise wrong(value, "JSON: texts, numbers of up to 64 bits, true, false, null, lists, mappings with text keys")


def _parse_key(value: Any) -> str:
    if isinstance(value, str):
        return str(parse_json(value))
    raise wrong(value, "a text as key")


JSON: Final = Kind(parse_json, {})

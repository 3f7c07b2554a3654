"""Tables of keys: how a mapping that people wrote is read, written back and described in JSON Schema.

A `Table` lists the keys of one kind of mapping, a `Kind` is what a key may hold (`skep.model.kinds` has them all). Reading
never stops at the first mistake: a value that is wrong raises `Fault` with everything that is wrong in it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The keys and list positions that lead to a value."""
Found: TypeAlias = tuple[Path, str]
"""Where something is wrong, and what was found and expected there."""

MAX_INT: Final = (1 << 63) - 1
"""Whole numbers in a workflow lie between this and its negative: what every JSON reader takes."""


class Fault(ValueError):
    """What is wrong with one value, and where in it."""

    def __init__(self, found: Sequence[Found]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(f"{show_path(path)}: {message}" if path else message for path, message in self.found))


def wrong(value: object, expected: str) -> Fault:
    """The fault of a value that is not what was expected."""
    return Fault([((), f"found {show(value)}, expected {expected}")])


def show(value: object) -> str:
    """A value in an error message: short, in the words of JSON."""
    match value:
        case None | bool():
            return {None: "nothing", True: "true", False: "false"}[value]
        case str():
            return repr(value if len(value) <= 60 else value[:60] + "…")
        case int() | float():
            return f"the number {value}" if isinstance(value, float) or abs(value) <= MAX_INT else "a number of over 64 bits"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return f"a {type(value).__name__}"


def show_path(path: Path) -> str:
    """A path as people read it: `tasks.lint.needs[1]`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def nearest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when one of the known names is much like this one."""
    close = difflib.get_close_matches(str(name)[:200], known, n=1, cutoff=0.7)
    return f"; did you mean '{close[0]}'?" if close else ""


def same(value: Any) -> Any:
    """The value as it is."""
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value. `parse` raises Fault; `write` turns what `parse` gave into what `parse` takes."""

    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]
    write: Callable[[Any], Any] = same
    merges: bool = False
    """A mapping that takes each key it does not have from the workflow's `defaults`."""


@dataclass(frozen=True, slots=True)
class Field:
    """One key: what it is called, the attribute it fills, what it holds, and one line of documentation."""

    key: str
    attribute: str
    kind: Kind
    doc: str
    beside: tuple[str, ...] = ()
    """Other keys, without one of which this one means nothing."""
    apart: tuple[tuple[str, str], ...] = ()
    """Other keys with which it makes no sense, each with the reason."""
    alias: str = ""
    """A second name for the key."""

    def suits(self, keys: Container[str]) -> bool:
        """Whether the keys beside it give it a meaning."""
        return not self.beside or any(key in keys for key in self.beside)

    def fits(self, keys: Container[str]) -> bool:
        """Whether it may stand beside these keys."""
        return self.suits(keys) and not any(key in keys for key, _ in self.apart)


class Table:
    """All keys of one kind of mapping, called `what` in messages."""

    def __init__(self, what: str, *fields: Field, required: Sequence[str] = ()) -> None:
        self.what = what
        self.fields = fields
        self.required = required
        self.by_key: Mapping[str, Field] = {key: field for field in fields for key in (field.key, field.alias) if key}

    def read(self, data: Mapping[Any, Any], faults: list[Found], beside: Container[str] | None = None) -> dict[str, Any]:
        """The attributes that the mapping gives; what is wrong is added to `faults` and left out.

        `beside`: the keys that count as present for fields that need another one, if not those of `data`.
        """
        attributes: dict[str, Any] = {}
        present: Container[str] = data if beside is None else beside
        for key, value in data.items():
            field = self.by_key.get(key)
            if field is None:
                hint = nearest(key, self.by_key) or f"; it has {self.keys}"
                faults.append(((str(key),), f"{self.what} has no such key{hint}"))
            elif not field.suits(present):
                faults.append(((key,), f"is only for {self.what} with {' or '.join(f'`{one}`' for one in field.beside)}"))
            elif field.apart and (odd := [(one, why) for one, why in field.apart if one in data]):
                faults.append(((key,), f"is not for {self.what} with `{odd[0][0]}`: {odd[0][1]}"))
            elif field.attribute in attributes and field.alias:
                faults.append(((key,), f"`{field.key}` and `{field.alias}` mean the same, expected one of them"))
            else:
                try:
                    attributes[field.attribute] = field.kind.parse(value)
                except Fault as fault:
                    faults.extend(((key, *path), message) for path, message in fault.found)
        for key in self.required:
            if data.keys().isdisjoint(self.names_of(key)):
                faults.append(((), f"expected the key `{key}`: {self.by_key[key].doc}"))
        return attributes

    def names_of(self, key: str) -> list[str]:
        """The key and its alias."""
        return [name for name in (key, self.by_key[key].alias) if name]

    @property
    def keys(self) -> str:
        """The keys for an error message."""
        return ", ".join(field.key for field in self.fields)

    def write(self, value: object, defaults: object, without: Container[str] = ()) -> dict[str, Any]:
        """The mapping that gives the attributes of `value`, `without` some keys and those that equal the defaults."""
        stored = [field for field in self.fields if hasattr(defaults, field.attribute) and field.key not in without]
        return {
            field.key: field.kind.write(getattr(value, field.attribute))
            for field in stored
            if getattr(value, field.attribute) != getattr(defaults, field.attribute)
        }

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the mapping."""
        properties: dict[str, Any] = {}
        for field in self.fields:
            properties[field.key] = {**field.kind.schema, "description": field.doc}
            if field.alias:
                properties[field.alias] = {**field.kind.schema, "description": f"Same as `{field.key}`."}
        made: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        needed = [{"anyOf": [{"required": [name]} for name in self.names_of(key)]} for key in self.required]
        depends = {name: rule for name, field in self.by_key.items() if (rule := _company(field))}
        return made | ({"allOf": needed} if needed else {}) | ({"dependentSchemas": depends} if depends else {})


def _company(field: Field) -> dict[str, Any]:
    """The JSON Schema of the mapping around a key: what must stand beside it, and what must not."""
    beside = [{"required": [key]} for key in field.beside]
    apart = [{"required": [key]} for key, _ in field.apart]
    return ({"anyOf": beside} if beside else {}) | ({"not": {"anyOf": apart}} if apart else {})

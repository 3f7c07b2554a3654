"""Forms: what the answer to an approval must bring, as a JSON Schema. A small part of it, enough for what people fill in.

What is not known here is refused when the workflow is checked: a rule that nobody enforces is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from skep.model import kinds
from skep.model.fields import MAX_INT, Fault, Found, Path, nearest, show, wrong

TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list | tuple),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: value.is_integer() if isinstance(value, float) else type(value) is int,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def parse_form(value: Any, *, filled: bool = False) -> dict[str, Any]:
    """The form as JSON. Raises Fault for what is no schema, and for keywords that are not checked here.

    Until its expressions are `filled` in, anything may come of them."""
    form = kinds.parse_json(value)
    faults: list[Found] = []
    if not isinstance(form, dict):
        raise wrong(value, "a JSON Schema: a mapping")
    _check(form, (), faults, filled)
    if faults:
        raise Fault(faults)
    return form


def check_data(form: Any, data: Any) -> None:
    """Raises Fault with everything in which the data is not as the form wants it. None for a form wants nothing."""
    faults: list[Found] = []
    if form is not None:
        _compare(form, data, (), faults)
    if faults:
        raise Fault(faults)


# -- forms


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INT


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except (re.error, RecursionError, OverflowError):
        return False


def _are_types(value: Any) -> bool:
    return all(isinstance(one, str) and one in TYPES for one in (value if isinstance(value, list) else [value])) and value != []


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_any(value: Any) -> bool:
    return True


_KEYWORDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "type": (_are_types, f"one of {', '.join(TYPES)}, or a list of them"),
    "enum": (lambda value: isinstance(value, list) and value != [], "a list of values"),
    "const": (_is_any, ""),
    "properties": (TYPES["object"], "a mapping from names to schemas"),
    "required": (_are_texts, "a list of names"),
    "additionalProperties": (TYPES["boolean"], "true or false"),
    "items": (TYPES["object"], "a schema"),
    "minItems": (_is_count, "a whole number"),
    "maxItems": (_is_count, "a whole number"),
    "minimum": (TYPES["number"], "a number"),
    "maximum": (TYPES["number"], "a number"),
    "minLength": (_is_count, "a whole number"),
    "maxLength": (_is_count, "a whole number"),
    "pattern": (_is_pattern, "a regular expression"),
    "title": (_is_text, "a text"),
    "description": (_is_text, "a text"),
    "default": (_is_any, ""),
    "examples": (TYPES["array"], "a list"),
    "$schema": (_is_text, "a text"),
}


def _check(form: Mapping[str, Any], path: Path, faults: list[Found], filled: bool) -> None:
    for key, value in form.items():
        if key not in _KEYWORDS:
            hint = nearest(key, _KEYWORDS) or f"; forms have {', '.join(_KEYWORDS)}"
            faults.append(((*path, key), f"is not a keyword of forms{hint}"))
            continue
        is_right, expected = _KEYWORDS[key]
        if not filled and _is_expression(value):
            continue
        if not is_right(value):
            faults.append(((*path, key), f"found {show(value)}, expected {expected}"))
        elif key == "properties":
            for name, inner in value.items():
                _check_inner(inner, (*path, key, name), faults, filled)
        elif key == "items":
            _check_inner(value, (*path, key), faults, filled)


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and "${{" in value


def _check_inner(inner: Any, path: Path, faults: list[Found], filled: bool) -> None:
    if isinstance(inner, Mapping):
        _check(inner, path, faults, filled)
    elif filled or not _is_expression(inner):
        faults.append((path, f"found {show(inner)}, expected a schema: a mapping"))


# -- data


def _compare(form: Mapping[str, Any], value: Any, path: Path, faults: list[Found]) -> None:
    wanted = form.get("type")
    if wanted is not None:
        types = wanted if isinstance(wanted, list) else [wanted]
        if not any(TYPES[one](value) for one in types):
            faults.append((path, f"found {show(value)}, expected {' or '.join(types)}"))
            return
    for rule, expected in _broken(form, value):
        faults.append((path, f"found {rule}, expected {expected}"))
    if isinstance(value, Mapping):
        _compare_members(form, value, path, faults)
    elif isinstance(value, list | tuple) and "items" in form:
        for at, one in enumerate(value):
            _compare(form["items"], one, (*path, at), faults)


def _broken(form: Mapping[str, Any], value: Any) -> list[tuple[str, str]]:
    """(what was found, what was expected) for each rule about the value itself that it breaks."""
    found: list[tuple[str, str]] = []
    if "enum" in form and not any(_same(value, one) for one in form["enum"]):
        found.append((show(value), f"one of {', '.join(show(one) for one in form['enum'])}"))
    if "const" in form and not _same(value, form["const"]):
        found.append((show(value), show(form["const"])))
    if TYPES["number"](value):
        if value < form.get("minimum", value):
            found.append((show(value), f"at least {form['minimum']:g}"))
        if value > form.get("maximum", value):
            found.append((show(value), f"at most {form['maximum']:g}"))
    if isinstance(value, str):
        found += _broken_size(form, len(value), "minLength", "maxLength", "characters")
        if "pattern" in form and not re.search(form["pattern"], value):
            found.append((show(value), f"what matches {form['pattern']}"))
    if isinstance(value, list | tuple):
        found += _broken_size(form, len(value), "minItems", "maxItems", "items")
    return found


def _broken_size(form: Mapping[str, Any], size: int, least: str, most: str, what: str) -> list[tuple[str, str]]:
    if size < form.get(least, 0):
        return [(f"{size} {what}", f"at least {form[least]}")]
    if size > form.get(most, size):
        return [(f"{size} {what}", f"at most {form[most]}")]
    return []


def _compare_members(form: Mapping[str, Any], value: Mapping[str, Any], path: Path, faults: list[Found]) -> None:
    properties: Mapping[str, Any] = form.get("properties", {})
    for name in form.get("required", ()):
        if name not in value:
            faults.append(((*path, name), "is required: give it a value"))
    for name, one in value.items():
        if name in properties:
            _compare(properties[name], one, (*path, name), faults)
        elif form.get("additionalProperties") is False:
            faults.append(((*path, name), f"is not asked for{nearest(name, properties)}"))


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)

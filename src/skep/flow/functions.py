"""What operators and functions of the expression language do to JSON values, and how large a value they make.

They check only what Python itself would let through; what cannot be computed raises one of `FAULTS`.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from math import isfinite
from typing import Any, Final

import msgspec

MAX_TEXT: Final = 1 << 20
"""Characters of a text that an expression makes, and of a rendered template."""
MAX_ITEMS: Final = 200_000
"""Items of a list that an expression makes."""
MAX_INT: Final = (1 << 63) - 1
"""Integers that an expression makes lie between this and its negative: what every JSON reader takes."""

FAULTS: Final = (ArithmeticError, AttributeError, TypeError, ValueError, LookupError, RecursionError, MemoryError)
"""What operators and functions may raise for values that do not suit them."""


class Misuse(ValueError):
    """A function was given something it refuses; the text is safe to show."""


def _numeric(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*operands: Any) -> Any:
        if not all(isinstance(operand, int | float) for operand in operands):
            raise TypeError  # `%` of a text would format it, at any width
        return function(*operands)

    return checked


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return [*left, *right]
    return _numeric(operator.add)(left, right)


def _multiply(left: Any, right: Any) -> Any:
    if isinstance(right, str | list | tuple):
        left, right = right, left
    if isinstance(left, str | list | tuple) and isinstance(right, int):
        if len(left) * right > (MAX_TEXT if isinstance(left, str) else MAX_ITEMS):
            raise Misuse("the result would be too long")
        return (left if isinstance(left, str) else list(left)) * right
    return _numeric(operator.mul)(left, right)


def slice_of(owner: Any, *bounds: int | None) -> Any:
    if not isinstance(owner, str | list | tuple):
        raise TypeError
    return owner[slice(*bounds)] if isinstance(owner, str) else list(owner[slice(*bounds)])


def mapping_of(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if not all(isinstance(key, str) for key in made):
        raise Misuse("expected keys that are texts")
    return made


def _range(*bounds: int) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > MAX_ITEMS:
        raise Misuse(f"expected at most {MAX_ITEMS} numbers")
    return list(numbers)


def _round(number: float, digits: int = 0) -> Any:
    if not isinstance(digits, int) or abs(digits) > 20:  # a large one makes Python compute 10**digits
        raise Misuse("expected -20 to 20 digits")
    return _numeric(round)(number, digits) if digits else _numeric(round)(number)


def _join(separator: str, items: Sequence[Any]) -> str:
    if not isinstance(separator, str) or not isinstance(items, list | tuple):
        raise Misuse("expected a separator and a list")
    texts = [to_text(item) for item in items]
    if sum(map(len, texts)) + len(separator) * len(texts) > MAX_TEXT:
        raise Misuse(f"the result would be longer than {MAX_TEXT} characters")
    return separator.join(texts)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def to_text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


OPERATORS: Final[Mapping[type[ast.AST], tuple[str, Callable[..., Any]]]] = {
    ast.Add: ("+", _add),
    ast.Sub: ("-", _numeric(operator.sub)),
    ast.Mult: ("*", _multiply),
    ast.Div: ("/", _numeric(operator.truediv)),
    ast.FloorDiv: ("//", _numeric(operator.floordiv)),
    ast.Mod: ("%", _numeric(operator.mod)),
    ast.USub: ("-", _numeric(operator.neg)),
    ast.Not: ("not", operator.not_),
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.In: ("in", lambda item, items: item in items),
    ast.NotIn: ("not in", lambda item, items: item not in items),
}
FUNCTIONS: Final[Mapping[str, tuple[Callable[..., Any], int, int]]] = {  # with the least and most arguments
    "abs": (_numeric(abs), 1, 1),
    "all": (all, 1, 1),
    "any": (any, 1, 1),
    "bool": (bool, 1, 1),
    "contains": (operator.contains, 2, 2),
    "default": (lambda value, fallback: fallback if value is None else value, 2, 2),
    "endswith": (str.endswith, 2, 2),
    "flatten": (lambda lists: list(chain.from_iterable(x if isinstance(x, list | tuple) else [x] for x in lists)), 1, 1),
    "float": (float, 1, 1),
    "from_json": (msgspec.json.decode, 1, 1),
    "int": (int, 1, 1),
    "join": (_join, 2, 2),
    "json": (_json, 1, 1),
    "keys": (lambda mapping: list(mapping.keys()), 1, 1),
    "len": (len, 1, 1),
    "lower": (str.lower, 1, 1),
    "max": (max, 1, 100),
    "min": (min, 1, 100),
    "range": (_range, 1, 3),
    "round": (_round, 1, 2),
    "sorted": (sorted, 1, 1),
    "split": (str.split, 1, 2),
    "startswith": (str.startswith, 2, 2),
    "str": (to_text, 1, 1),
    "sum": (lambda numbers: sum(map(_numeric(operator.pos), numbers)), 1, 1),
    "upper": (str.upper, 1, 1),
    "values": (lambda mapping: list(mapping.values()), 1, 1),
    "zip": (lambda *lists: [list(row) for row in zip(*lists, strict=True)], 1, 100),
}
STATE_FUNCTIONS: Final = {"always": (0, 0), "failed": (0, 1), "skipped": (1, 1), "succeeded": (0, 1)}
ARITY: Final = {name: (least, most) for name, (_, least, most) in FUNCTIONS.items()} | STATE_FUNCTIONS


def is_number(value: object) -> bool:
    return isfinite(value) if isinstance(value, float) else isinstance(value, int) and -MAX_INT <= value <= MAX_INT


def kind_of(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", tuple: "a list"}
    return "null" if value is None else "a mapping" if isinstance(value, Mapping) else kinds.get(type(value), "no JSON value")

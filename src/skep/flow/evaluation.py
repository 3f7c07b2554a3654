"""One evaluation of an expression: its value from what is in scope, within a budget of work.

None can cost much: every operation first *weighs* what it works on (items, characters), and the weights of one evaluation
share one budget.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final

from skep.errors import SkepError
from skep.flow.functions import (
    FAULTS,
    FUNCTIONS,
    MAX_ITEMS,
    MAX_TEXT,
    OPERATORS,
    STATE_FUNCTIONS,
    Misuse,
    is_number,
    kind_of,
    mapping_of,
    slice_of,
)

MAX_STEPS: Final = 2_000_000
"""Work of one evaluation: one for every item looked at, and one for every `CHARS_PER_STEP` characters."""
CHARS_PER_STEP: Final = 32
MAX_VALUE_DEPTH: Final = 100
"""Levels of nesting in a value."""

ALIASES: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None}


class ExpressionError(SkepError, ValueError):
    """An expression that cannot be parsed or evaluated; the text holds the problem, the place and the expression.

    Values never appear in it, because they may be secrets. `column` counts characters of `source` from 1.
    """

    exit_code = 3

    def __init__(self, problem: str, source: str, column: int = 1) -> None:
        self.problem, self.source, self.column = problem, source, column
        start = max(0, column - 100)
        shown = ("…" if start else "") + source[start : start + 200] + ("…" if len(source) > start + 200 else "")
        super().__init__(f"{problem}, at column {column} of `{shown}`")


class _Missing(ExpressionError):
    """A key or index that is not there: what `default()` forgives."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression sees. `tasks` may be lazy: only keys that the expression names are looked up in it.

    `functions` holds the state functions (`always`, `failed`, `succeeded`, `skipped`).
    """

    names: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


class Evaluation:
    """One evaluation with its budget of steps. Without loops every node is visited at most once, so only values cost."""

    def __init__(self, source: str, scope: Scope, *, secret: bool) -> None:
        self.source = source
        self.scope = scope
        self.secret = secret
        self.steps = MAX_STEPS

    def run(self, body: ast.expr) -> Any:
        try:
            result = self.value(body)
            self.weigh(body, result)
        except RecursionError:
            raise ExpressionError("a value is too deeply nested", self.source) from None
        return result

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=literal):
                return literal
            case ast.Name(id=name):
                return ALIASES[name] if name in ALIASES else self.root(node, name)
            case ast.Attribute(value=owner, attr=key):
                return self.look_up(node, self.value(owner), key)
            case ast.Subscript(value=owner, slice=ast.Slice(lower=lower, upper=upper, step=step)):
                bounds = [None if bound is None else self.value(bound) for bound in (lower, upper, step)]
                return self.made(node, self.attempt(node, "a slice", slice_of, self.value(owner), *bounds))
            case ast.Subscript(value=owner, slice=key_node):
                return self.look_up(node, self.value(owner), self.value(key_node))
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return self.made(node, [self.value(element) for element in elements])
            case ast.Dict(keys=keys, values=values):
                pairs = [(self.value(key), self.value(value)) for key, value in zip(keys, values, strict=True) if key]
                return self.made(node, self.attempt(node, "a mapping", mapping_of, pairs))
            case ast.BoolOp(op=op, values=operands):
                for operand in operands[:-1]:
                    if bool(result := self.value(operand)) is isinstance(op, ast.Or):
                        return result
                return self.value(operands[-1])
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                return self.value(then) if self.value(test) else self.value(otherwise)
            case ast.UnaryOp(op=op, operand=operand):
                return self.apply(node, op, self.value(operand))
            case ast.BinOp(op=op, left=left, right=right):
                return self.apply(node, op, self.value(left), self.value(right))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self.compare(node, self.value(left), ops, comparators)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self.call(node, name, arguments)
        raise AssertionError(f"{type(node).__name__} passed the whitelist")

    def root(self, node: ast.expr, name: str) -> Any:
        if name not in self.scope.names:
            raise self.refusal(node, f"`{name}` has no value here")
        return self.scope.names[name]

    def look_up(self, node: ast.expr, owner: Any, key: Any) -> Any:
        """A key of a mapping or an index of a list or text; never an attribute of a Python object."""
        shown = "such key" if self.secret else f"key {_cut(repr(key))}" if isinstance(key, str | int) else kind_of(key)
        if isinstance(owner, Mapping) and isinstance(key, str | int | float | None):
            try:
                return owner[key]
            except KeyError:
                known = ", ".join(_cut(str(name)) for name in islice(owner, 8)) or "no keys"
                raise self.refusal(node, f"no {shown}" + ("" if self.secret else f"; there is {known}"), _Missing) from None
        if isinstance(owner, list | tuple | str) and type(key) is int:
            if not -len(owner) <= key < len(owner):
                raise self.refusal(node, f"no {shown}; there are {len(owner)} items", _Missing)
            return owner[key]
        fault = _Missing if owner is None else ExpressionError
        raise self.refusal(node, f"no {shown} in {kind_of(owner)}, expected a mapping or an index of a list", fault)

    def apply(self, node: ast.expr, op: ast.AST, *operands: Any) -> Any:
        sign, function = OPERATORS[type(op)]
        return self.made(node, self.attempt(node, sign, function, *operands))

    def compare(self, node: ast.expr, left: Any, ops: Sequence[ast.cmpop], comparators: Sequence[ast.expr]) -> bool:
        for op, comparator in zip(ops, comparators, strict=True):
            right = self.value(comparator)
            self.weigh(node, left, right)
            if not self.apply(node, op, left, right):
                return False
            left = right
        return True

    def call(self, node: ast.expr, name: str, arguments: Sequence[ast.expr]) -> Any:
        if name == "default":
            try:
                value = self.value(arguments[0])
            except _Missing:
                value = None
            return self.value(arguments[1]) if value is None else value
        function = self.scope.functions.get(name) if name in STATE_FUNCTIONS else FUNCTIONS[name][0]
        if function is None:
            raise self.refusal(node, f"{name}() is not available here")
        values = [self.value(argument) for argument in arguments]
        if name not in ("len", "bool"):  # these take no time, however large the value
            self.weigh(node, *values)
        return self.made(node, self.attempt(node, f"{name}()", function, *values))

    def attempt(self, node: ast.expr, what: str, function: Callable[..., Any], *values: Any) -> Any:
        try:
            return function(*values)
        except (Misuse, ArithmeticError) as error:
            raise self.refusal(node, f"{what}: {error}") from None
        except FAULTS:  # the text of these may show the value
            raise self.refusal(node, f"{what} has no result for {' and '.join(map(kind_of, values)) or 'nothing'}") from None

    def made(self, node: ast.expr, value: Any) -> Any:
        """Checks the size of a value that the expression made."""
        if isinstance(value, int | float) and not is_number(value):
            raise self.refusal(node, "the number is too large")
        if isinstance(value, str | list | dict) and len(value) > (MAX_TEXT if isinstance(value, str) else MAX_ITEMS):
            raise self.refusal(node, f"the result is longer than {MAX_TEXT} characters or {MAX_ITEMS} items")
        self.weigh(node, value)
        return value

    def weigh(self, node: ast.expr, *values: Any) -> None:
        """Takes the steps which it costs to walk these values in full from the budget."""
        level: list[Any] = list(values)
        for _ in range(MAX_VALUE_DEPTH):
            inner: list[Any] = []
            for value in level:
                if isinstance(value, str):
                    self.steps -= 1 + len(value) // CHARS_PER_STEP
                elif isinstance(value, list | tuple | Mapping):
                    self.steps -= 1 + len(value)
                    if self.steps > 0:
                        inner.extend(chain(value, value.values()) if isinstance(value, Mapping) else value)
                if self.steps < 0:
                    raise self.refusal(node, f"too much work: the values have more than {MAX_STEPS} items in all")
            if not inner:
                return
            level = inner
        raise self.refusal(node, f"a value is nested deeper than {MAX_VALUE_DEPTH} levels")

    def refusal(self, node: ast.expr, problem: str, kind: type[ExpressionError] = ExpressionError) -> ExpressionError:
        return kind(problem, self.source, column_of(self.source, node))


def column_of(source: str, node: ast.AST) -> int:
    """The character of the source, from 1, where the node starts, or its last key; `ast` counts bytes of lines, from 0."""
    line, offset = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    if isinstance(node, ast.Attribute):
        line, offset = node.end_lineno or line, (node.end_col_offset or 0) - len(node.attr.encode())
    lines = source.encode().splitlines(keepends=True)
    return len((b"".join(lines[: line - 1]) + lines[line - 1][:offset]).decode(errors="ignore")) + 1


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"

"""The expression language `${{ … }}`: a whitelist over Python's `ast`, without loops, attributes of objects or power.

An expression is parsed once and evaluated many times. It reads JSON values from a `Scope` and makes JSON values. Nothing in it
can reach a Python object, and none can cost much: every operation first *weighs* what it works on (items, characters), and
the weights of one evaluation share one budget.

The server renders everything but secrets (`keep_secrets=True`). What it hands on is itself a template, which the node
renders once with nothing but `secrets` in scope; so all other text in it is escaped, or an input could name a secret.
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from math import isfinite
from typing import Any, Final, TypeAlias

import msgspec

from skep.errors import SkepError

MAX_SOURCE: Final = 4_096
"""Characters of one expression."""
MAX_DEPTH: Final = 50
"""Levels of nesting in an expression."""
MAX_NODES: Final = 1_000
"""Syntax nodes in an expression."""
MAX_STEPS: Final = 2_000_000
"""Work of one evaluation: one for every item looked at, and one for every `CHARS_PER_STEP` characters."""
CHARS_PER_STEP: Final = 32
MAX_TEXT: Final = 1 << 20
"""Characters of a text that an expression makes, and of a rendered template."""
MAX_ITEMS: Final = 200_000
"""Items of a list that an expression makes."""
MAX_INT: Final = (1 << 63) - 1
"""Integers that an expression makes lie between this and its negative: what every JSON reader takes."""
MAX_VALUE_DEPTH: Final = 100
"""Levels of nesting in a value."""

ROOTS: Final = frozenset({"inputs", "tasks", "item", "index", "run", "secrets"})
"""The names an expression may use."""

Quote: TypeAlias = Callable[[str], str]

_ALIASES: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None}
_FAULTS = (ArithmeticError, AttributeError, TypeError, ValueError, LookupError, RecursionError, MemoryError)
_OPEN = re.compile(r"\$?\$\{\{")
_IN_EXPRESSION = re.compile(r"""'(?:\\.|[^'\\])*(?:'|\\?\Z)|"(?:\\.|[^"\\])*(?:"|\\?\Z)|[{}]""", re.DOTALL)
_IN_SHELL = re.compile(  # what keeps a quoted word from being one: quotes, backticks, a backslash, comments, here documents
    r"""'[^']*(?:'|\Z)|"(?:\\.|[^"\\])*(?:"|\\?\Z)|`[^`]*(?:`|\Z)|\\.|(?<![^\s;&|()])\#[^\n]*"""
    r"""|(?<!<)<<(?!<)-?[ \t]*['"\\]?([A-Za-z_]\w*).*?(?:\n[ \t]*\1[ \t]*(?=\n|\Z)|\Z)""",
    re.DOTALL,
)


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


class _Misuse(ValueError):
    """A function was given something it refuses; the text is safe to show."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression sees. `tasks` may be lazy: only keys that the expression names are looked up in it.

    `functions` holds the state functions (`always`, `failed`, `succeeded`, `skipped`).
    """

    names: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """What an expression, or all expressions of a template or tree, refer to."""

    tasks: frozenset[str] = frozenset()
    """Tasks named by `tasks.NAME`, `tasks['NAME']` or a state function: the edges."""
    inputs: frozenset[str] = frozenset()
    """Inputs named by `inputs.NAME` or `inputs['NAME']`."""
    secrets: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    """Names of the functions called."""
    uses_item: bool = False
    """Whether `item` or `index` is used, which only children of a map have."""

    @property
    def uses_secrets(self) -> bool:
        return bool(self.secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression(Uses):
    """One parsed expression; `source` is the text between `${{` and `}}`."""

    source: str
    body: ast.expr = field(repr=False, compare=False)

    def evaluate(self, scope: Scope) -> Any:
        """The JSON value of the expression. Raises ExpressionError."""
        return _Evaluation(self.source, scope, secret=self.uses_secrets).run(self.body)


def parse(source: str) -> Expression:
    """The expression in `source`, given with or without its `${{ }}`. Raises ExpressionError."""
    text = source.strip()
    if not text.startswith("${{"):
        return _parse(text)
    pieces = list(islice(_split(text), 2))
    if len(pieces) != 1:
        raise ExpressionError("expected one expression and nothing after its }}", text)
    return _parse(pieces[0][1])


@lru_cache(maxsize=4_096)
def _parse(source: str) -> Expression:
    text = source.strip()
    if not text or len(text) > MAX_SOURCE:
        raise ExpressionError(f"expected an expression of 1 to {MAX_SOURCE} characters, such as `inputs.x`", text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python finds dubious (`1or 2`, "\d") is a mistake here
            body = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        hint = "a key that is a Python word or no plain name goes in brackets: inputs['from']"
        raise ExpressionError(f"expected an expression: {error.msg}; {hint}", text, max(error.offset or 1, 1)) from None
    except _FAULTS as error:
        raise ExpressionError(f"expected an expression that is less deeply nested, in valid Unicode ({error})", text) from None
    return _Reading(text).expression(body)


def parse_condition(text: str | bool) -> Expression:
    """The expression of a `when` or `map`, written with or without `${{ }}`; YAML's plain true and false are taken too."""
    return parse(str(text))


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
            raise _Misuse("the result would be too long")
        return (left if isinstance(left, str) else list(left)) * right
    return _numeric(operator.mul)(left, right)


def _slice(owner: Any, *bounds: int | None) -> Any:
    if not isinstance(owner, str | list | tuple):
        raise TypeError
    return owner[slice(*bounds)] if isinstance(owner, str) else list(owner[slice(*bounds)])


def _mapping(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if not all(isinstance(key, str) for key in made):
        raise _Misuse("expected keys that are texts")
    return made


def _range(*bounds: int) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > MAX_ITEMS:
        raise _Misuse(f"expected at most {MAX_ITEMS} numbers")
    return list(numbers)


def _round(number: float, digits: int = 0) -> Any:
    if not isinstance(digits, int) or abs(digits) > 20:  # a large one makes Python compute 10**digits
        raise _Misuse("expected -20 to 20 digits")
    return _numeric(round)(number, digits) if digits else _numeric(round)(number)


def _join(separator: str, items: Sequence[Any]) -> str:
    if not isinstance(separator, str) or not isinstance(items, list | tuple):
        raise _Misuse("expected a separator and a list")
    texts = [_to_text(item) for item in items]
    if sum(map(len, texts)) + len(separator) * len(texts) > MAX_TEXT:
        raise _Misuse(f"the result would be longer than {MAX_TEXT} characters")
    return separator.join(texts)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


_OPERATORS: Final[Mapping[type[ast.AST], tuple[str, Callable[..., Any]]]] = {
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
_FUNCTIONS: Final[Mapping[str, tuple[Callable[..., Any], int, int]]] = {  # with the least and most arguments
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
    "str": (_to_text, 1, 1),
    "sum": (lambda numbers: sum(map(_numeric(operator.pos), numbers)), 1, 1),
    "upper": (str.upper, 1, 1),
    "values": (lambda mapping: list(mapping.values()), 1, 1),
    "zip": (lambda *lists: [list(row) for row in zip(*lists, strict=True)], 1, 100),
}
_STATE_FUNCTIONS: Final = {"always": (0, 0), "failed": (0, 1), "skipped": (1, 1), "succeeded": (0, 1)}
_ARITY: Final = {name: (least, most) for name, (_, least, most) in _FUNCTIONS.items()} | _STATE_FUNCTIONS


class _Reading:
    """Checks a tree against the whitelist and collects what it refers to."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.nodes = 0
        self.roots: set[str] = set()
        self.fixed: dict[str, set[str]] = {"tasks": set(), "inputs": set(), "secrets": set()}
        self.calls: set[str] = set()

    def expression(self, body: ast.expr) -> Expression:
        self.check(body)
        if "secrets" in self.roots and len(self.roots) > 1:
            problem = "secrets are known on the node only and cannot be mixed with other names; write two expressions"
            raise ExpressionError(problem, self.source)
        return Expression(
            source=self.source,
            body=body,
            calls=frozenset(self.calls),
            uses_item=not self.roots.isdisjoint(("item", "index")),
            **{root: frozenset(names) for root, names in self.fixed.items()},
        )

    def check(self, node: ast.AST, depth: int = 1) -> None:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise self.refusal(node, f"expected at most {MAX_DEPTH} levels and {MAX_NODES} parts")
        children = ast.iter_child_nodes(node)
        match node:
            case ast.Attribute(attr=key) if key.startswith("__"):
                raise self.refusal(node, "names with two leading underscores are not available")
            case (
                ast.Attribute(value=ast.Name(id=root), attr=key)
                | ast.Subscript(value=ast.Name(id=root), slice=ast.Constant(value=str(key)))
            ) if root in self.fixed:
                self.check_literal(node, key)
                self.fixed[root].add(key)
                self.roots.add(root)
                return
            case ast.Name(id=name):
                self.check_name(node, name)
                return
            case ast.Constant(value=value):
                self.check_literal(node, value)
                return
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _ARITY:
                self.check_call(node, name, arguments)
                children = iter(arguments)
            case ast.Call():
                raise self.refusal(node, f"expected a call without keywords of one of {', '.join(_ARITY)}")
            case ast.BinOp(op=op) | ast.UnaryOp(op=op) if type(op) not in _OPERATORS:
                raise self.refusal(node, "expected one of the operators + - * / // % not and or")
            case ast.Compare(ops=ops) if any(type(op) not in _OPERATORS for op in ops):
                raise self.refusal(node, "expected one of the comparisons == != < <= > >= in, not in")
            case ast.Dict(keys=keys) if None in keys:
                raise self.refusal(node, "expected `key: value` pairs")
            case ast.List() | ast.Tuple() | ast.Dict() | ast.Attribute() | ast.Subscript() | ast.Slice():
                pass
            case ast.BinOp() | ast.UnaryOp() | ast.BoolOp() | ast.Compare() | ast.IfExp():
                pass
            case _:
                raise self.refusal(node, f"expected a value, an operator or a call; {type(node).__name__} is not available")
        for child in children:
            if isinstance(child, ast.expr):
                self.check(child, depth + 1)

    def check_name(self, node: ast.AST, name: str) -> None:
        if name in ("tasks", "secrets"):
            raise self.refusal(node, f"expected a fixed name after `{name}`: {name}.NAME or {name}['NAME']")
        if name not in ROOTS and name not in _ALIASES:
            known = ", ".join(sorted(ROOTS))
            raise self.refusal(node, f"unknown name '{name}', expected one of {known} (a key with a dash: inputs['a-b'])")
        self.roots.update({name} & ROOTS)

    def check_literal(self, node: ast.AST, value: object) -> None:
        known = value is None or _is_number(value) or (isinstance(value, str) and _is_unicode(value))
        if not known:
            raise self.refusal(node, "expected null, true, false, a number of up to 64 bits or a text in valid Unicode")

    def check_call(self, node: ast.AST, name: str, arguments: Sequence[ast.expr]) -> None:
        least, most = _ARITY[name]
        if not least <= len(arguments) <= most:
            raise self.refusal(node, f"expected {name}() with {least}" + (f" to {most}" * (most > least)) + " arguments")
        self.calls.add(name)
        if name in _STATE_FUNCTIONS:
            self.roots.add("tasks")
            for argument in arguments:
                if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                    raise self.refusal(argument, f"expected a fixed task name: {name}('NAME')")
                self.fixed["tasks"].add(argument.value)

    def refusal(self, node: ast.AST, problem: str) -> ExpressionError:
        return ExpressionError(problem, self.source, _column(self.source, node))


class _Evaluation:
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
                return _ALIASES[name] if name in _ALIASES else self.root(node, name)
            case ast.Attribute(value=owner, attr=key):
                return self.look_up(node, self.value(owner), key)
            case ast.Subscript(value=owner, slice=ast.Slice(lower=lower, upper=upper, step=step)):
                bounds = [None if bound is None else self.value(bound) for bound in (lower, upper, step)]
                return self.made(node, self.attempt(node, "a slice", _slice, self.value(owner), *bounds))
            case ast.Subscript(value=owner, slice=key_node):
                return self.look_up(node, self.value(owner), self.value(key_node))
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return self.made(node, [self.value(element) for element in elements])
            case ast.Dict(keys=keys, values=values):
                pairs = [(self.value(key), self.value(value)) for key, value in zip(keys, values, strict=True) if key]
                return self.made(node, self.attempt(node, "a mapping", _mapping, pairs))
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
        shown = "such key" if self.secret else f"key {_cut(repr(key))}" if isinstance(key, str | int) else _kind(key)
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
        raise self.refusal(node, f"no {shown} in {_kind(owner)}, expected a mapping or an index of a list", fault)

    def apply(self, node: ast.expr, op: ast.AST, *operands: Any) -> Any:
        sign, function = _OPERATORS[type(op)]
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
        function = self.scope.functions.get(name) if name in _STATE_FUNCTIONS else _FUNCTIONS[name][0]
        if function is None:
            raise self.refusal(node, f"{name}() is not available here")
        values = [self.value(argument) for argument in arguments]
        if name not in ("len", "bool"):  # these take no time, however large the value
            self.weigh(node, *values)
        return self.made(node, self.attempt(node, f"{name}()", function, *values))

    def attempt(self, node: ast.expr, what: str, function: Callable[..., Any], *values: Any) -> Any:
        try:
            return function(*values)
        except (_Misuse, ArithmeticError) as error:
            raise self.refusal(node, f"{what}: {error}") from None
        except _FAULTS:  # the text of these may show the value
            raise self.refusal(node, f"{what} has no result for {' and '.join(map(_kind, values)) or 'nothing'}") from None

    def made(self, node: ast.expr, value: Any) -> Any:
        """Checks the size of a value that the expression made."""
        if isinstance(value, int | float) and not _is_number(value):
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
        return kind(problem, self.source, _column(self.source, node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Template(Uses):
    """Text with expressions in it."""

    parts: tuple[str | Expression, ...]

    @property
    def whole(self) -> bool:
        """Whether the text is exactly one expression, so that its JSON type is kept."""
        return len(self.parts) == 1 and isinstance(self.parts[0], Expression)

    def check_shell(self) -> None:
        """Raises ExpressionError where quoting would not make the value of an expression one word of a shell script.

        That is inside of quotes, backticks, comments and here documents, and after a backslash.
        """
        expressions = [part for part in self.parts if isinstance(part, Expression)]
        script = "".join(part.replace("\0", " ") if isinstance(part, str) else "\0" for part in self.parts)
        for token in _IN_SHELL.finditer(script):
            if "\0" in token[0]:
                problem = "the value is quoted already and must not stand inside of quotes, a comment or a here document"
                source = expressions[script.count("\0", 0, token.start())].source
                raise ExpressionError(f'{problem}; or put it in `env` and write "$NAME"', source)

    def render(self, scope: Scope, quote: Quote | None = None, keep_secrets: bool = False) -> Any:
        """The text with every value in place; the value itself when the template is `whole` and not quoted.

        With `quote` (shlex.quote) every value becomes one word, a list one word per element. With `keep_secrets` the result is
        a template in which only secrets are left, to be rendered exactly once more. Raises ExpressionError.
        """
        if quote is not None:
            self.check_shell()
        elif len(self.parts) == 1 and isinstance(part := self.parts[0], Expression) and not (keep_secrets and part.secrets):
            return _escape(part.evaluate(scope)) if keep_secrets else part.evaluate(scope)
        done = text = ""
        for part in self.parts:
            if isinstance(part, str):
                text += part
            elif keep_secrets and part.uses_secrets:
                # A `$` right before would turn the kept expression into plain text, so it travels as an expression too.
                before = text.rstrip("$")
                dollars = f"${{{{ '{text[len(before) :]}' }}}}" if before != text else ""
                done, text = f"{done}{_escape(before)}{dollars}${{{{ {part.source} }}}}", ""
            else:
                text += _substitute(part, scope, quote)
            if len(done) + len(text) > MAX_TEXT:
                raise ExpressionError(f"the rendered text is longer than {MAX_TEXT} characters", str(part))
        return done + (_escape(text) if keep_secrets else text)


def template(text: str) -> Template | None:
    """The template in `text`; None when there is no `${{` in it. `$${{` stands for a literal `${{`. Raises ExpressionError."""
    if "${{" not in text:
        return None
    parts: list[str | Expression] = []
    for is_expression, piece in _split(text):
        if is_expression:
            parts.append(_parse(piece))
        elif parts and isinstance(last := parts[-1], str):
            parts[-1] = last + piece
        else:
            parts.append(piece)
    return Template(parts=tuple(parts), **_union(part for part in parts if isinstance(part, Expression)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Value(Uses):
    """A JSON tree whose texts may hold expressions; keys of mappings are taken as they are."""

    constant: bool
    """Whether there is no expression in it."""
    body: Any = field(repr=False)
    """A Template, a list or dict of Values, or the plain value."""
    plain: bool = field(repr=False)

    def render(self, scope: Scope, quote: Quote | None = None, keep_secrets: bool = False) -> Any:
        """The tree with every text rendered, as `Template.render` does it. Raises ExpressionError."""
        if self.plain:
            return self.body
        if isinstance(self.body, Template):
            return self.body.render(scope, quote, keep_secrets)
        if isinstance(self.body, dict):
            return {key: value.render(scope, quote, keep_secrets) for key, value in self.body.items()}
        return [value.render(scope, quote, keep_secrets) for value in self.body]


def compile_value(value: Any, _depth: int = 1) -> Value:
    """Finds and parses every expression in a JSON tree, once. Raises ExpressionError."""
    if _depth > MAX_VALUE_DEPTH:
        raise ExpressionError(f"expected at most {MAX_VALUE_DEPTH} levels of nesting", "")
    if isinstance(value, str) and (text := template(value)):
        return Value(body=text, plain=False, constant=all(isinstance(part, str) for part in text.parts), **_union([text]))
    if isinstance(value, Mapping):
        body: Any = {key: compile_value(item, _depth + 1) for key, item in value.items()}
        children = list(body.values())
    elif isinstance(value, list | tuple):
        body = children = [compile_value(item, _depth + 1) for item in value]
    else:
        return Value(body=value, plain=True, constant=True)
    if all(child.plain for child in children):
        return Value(body=value, plain=True, constant=True)
    return Value(body=body, plain=False, constant=all(child.constant for child in children), **_union(children))


def _union(many: Iterable[Uses]) -> dict[str, Any]:
    members = list(many)
    kinds = ("tasks", "inputs", "secrets", "calls")
    sets = {kind: frozenset().union(*(getattr(member, kind) for member in members)) for kind in kinds}
    return {**sets, "uses_item": any(member.uses_item for member in members)}


def _split(text: str) -> Iterator[tuple[bool, str]]:
    """The pieces of a text, each with whether it is the inside of an expression."""
    position = 0
    while opening := _OPEN.search(text, position):
        if opening.start() > position:
            yield False, text[position : opening.start()]
        position = opening.end()
        if opening[0] == "$${{":
            yield False, "${{"
            continue
        end = _closing(text, position)
        yield True, text[position:end]
        position = end + 2
    if position < len(text):
        yield False, text[position:]


def _closing(text: str, start: int) -> int:
    """Where the `}}` of the expression that starts here is: not in a text literal, not the end of a nested mapping."""
    depth = 0
    for token in _IN_EXPRESSION.finditer(text, start, start + MAX_SOURCE + 2):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}" and depth:
            depth -= 1
        elif token[0] == "}" and text.startswith("}}", token.start()):
            return token.start()
    problem = f"expected }}}} within {MAX_SOURCE} characters after ${{{{ (write $${{{{ for plain text)"
    raise ExpressionError(problem, text, start - 2)


def _substitute(expression: Expression, scope: Scope, quote: Quote | None) -> str:
    value = expression.evaluate(scope)
    try:
        if quote is None:
            return _to_text(value)
        words = value if isinstance(value, list | tuple) else [value]
        return " ".join(quote(_to_text(word)) for word in words)
    except _FAULTS:
        raise ExpressionError(f"expected a JSON value, found {_kind(value)}", expression.source) from None


def _escape(value: Any) -> Any:
    """The value with no text in it that a template would take for an expression."""
    if isinstance(value, str):
        return value.replace("${{", "$${{")
    if isinstance(value, Mapping):
        return {key: _escape(item) for key, item in value.items()}
    return [_escape(item) for item in value] if isinstance(value, list | tuple) else value


def _column(source: str, node: ast.AST) -> int:
    """The character of the source, from 1, where the node starts, or its last key; `ast` counts bytes of lines, from 0."""
    line, offset = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    if isinstance(node, ast.Attribute):
        line, offset = node.end_lineno or line, (node.end_col_offset or 0) - len(node.attr.encode())
    lines = source.encode().splitlines(keepends=True)
    return len((b"".join(lines[: line - 1]) + lines[line - 1][:offset]).decode(errors="ignore")) + 1


def _is_number(value: object) -> bool:
    return isfinite(value) if isinstance(value, float) else isinstance(value, int) and -MAX_INT <= value <= MAX_INT


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", tuple: "a list"}
    return "null" if value is None else "a mapping" if isinstance(value, Mapping) else kinds.get(type(value), "no JSON value")

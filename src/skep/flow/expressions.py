"""The expression language `${{ … }}`: a whitelist over Python's `ast`, without loops, attributes of objects or power.

An expression is parsed once and evaluated many times. It reads JSON values from a `Scope` and makes JSON values. Nothing in it
can reach a Python object.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from skep.flow.evaluation import ALIASES, Evaluation, ExpressionError, Scope, column_of
from skep.flow.functions import ARITY, FAULTS, OPERATORS, STATE_FUNCTIONS, is_number

MAX_SOURCE: Final = 4_096
"""Characters of one expression."""
MAX_DEPTH: Final = 50
"""Levels of nesting in an expression."""
MAX_NODES: Final = 1_000
"""Syntax nodes in an expression."""

ROOTS: Final = frozenset({"inputs", "tasks", "item", "index", "run", "secrets"})
"""The names an expression may use."""

_OPEN = re.compile(r"\$?\$\{\{")
_IN_EXPRESSION = re.compile(r"""'(?:\\.|[^'\\])*(?:'|\\?\Z)|"(?:\\.|[^"\\])*(?:"|\\?\Z)|[{}]""", re.DOTALL)


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
        return Evaluation(self.source, scope, secret=self.uses_secrets).run(self.body)


def parse(source: str) -> Expression:
    """The expression in `source`, given with or without its `${{ }}`. Raises ExpressionError."""
    text = source.strip()
    if not text.startswith("${{"):
        return parse_bare(text)
    pieces = list(islice(split(text), 2))
    if len(pieces) != 1:
        raise ExpressionError("expected one expression and nothing after its }}", text)
    return parse_bare(pieces[0][1])


@lru_cache(maxsize=4_096)
def parse_bare(source: str) -> Expression:
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
    except FAULTS as error:
        raise ExpressionError(f"expected an expression that is less deeply nested, in valid Unicode ({error})", text) from None
    return _Reading(text).expression(body)


def parse_condition(text: str | bool) -> Expression:
    """The expression of a `when` or `map`; YAML's plain true and false are taken too.

    Written with or without `${{ }}`, which in a longer condition is as good as parentheses: `len(${{ inputs.x }}) > 3`.
    """
    source = str(text).strip()
    pieces = list(split(source)) if "${{" in source else []
    if len(pieces) <= 1:
        return parse(source)
    outside = "".join("\0" if is_expression else piece for is_expression, piece in pieces)
    if any("\0" in token[0] for token in _IN_EXPRESSION.finditer(outside)):
        raise ExpressionError("a `${{ }}` inside of quotes is plain text here; write it without the quotes", source)
    return parse_bare("".join(f"({parse_bare(piece).source})" if is_expression else piece for is_expression, piece in pieces))


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
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in ARITY:
                self.check_call(node, name, arguments)
                children = iter(arguments)
            case ast.Call():
                raise self.refusal(node, f"expected a call without keywords of one of {', '.join(ARITY)}")
            case ast.BinOp(op=op) | ast.UnaryOp(op=op) if type(op) not in OPERATORS:
                raise self.refusal(node, "expected one of the operators + - * / // % not and or")
            case ast.Compare(ops=ops) if any(type(op) not in OPERATORS for op in ops):
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
        if name not in ROOTS and name not in ALIASES:
            known = ", ".join(sorted(ROOTS))
            raise self.refusal(node, f"unknown name '{name}', expected one of {known} (a key with a dash: inputs['a-b'])")
        self.roots.update({name} & ROOTS)

    def check_literal(self, node: ast.AST, value: object) -> None:
        known = value is None or is_number(value) or (isinstance(value, str) and is_unicode(value))
        if not known:
            raise self.refusal(node, "expected null, true, false, a number of up to 64 bits or a text in valid Unicode")

    def check_call(self, node: ast.AST, name: str, arguments: Sequence[ast.expr]) -> None:
        least, most = ARITY[name]
        if not least <= len(arguments) <= most:
            raise self.refusal(node, f"expected {name}() with {least}" + (f" to {most}" * (most > least)) + " arguments")
        self.calls.add(name)
        if name in STATE_FUNCTIONS:
            self.roots.add("tasks")
            for argument in arguments:
                if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                    raise self.refusal(argument, f"expected a fixed task name: {name}('NAME')")
                self.fixed["tasks"].add(argument.value)

    def refusal(self, node: ast.AST, problem: str) -> ExpressionError:
        return ExpressionError(problem, self.source, column_of(self.source, node))


def union(many: Iterable[Uses]) -> dict[str, Any]:
    members = list(many)
    kinds = ("tasks", "inputs", "secrets", "calls")
    sets = {kind: frozenset().union(*(getattr(member, kind) for member in members)) for kind in kinds}
    return {**sets, "uses_item": any(member.uses_item for member in members)}


def split(text: str) -> Iterator[tuple[bool, str]]:
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


def is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)

"""Texts and JSON trees with expressions in them, compiled once and rendered for each task.

The server renders everything but secrets (`keep_secrets=True`). What it hands on is itself a template, which the node
renders once with nothing but `secrets` in scope; so all other text in it is escaped, or an input could name a secret.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from skep.flow.evaluation import MAX_VALUE_DEPTH, ExpressionError, Scope
from skep.flow.expressions import Expression, Uses, parse_bare, split, union
from skep.flow.functions import FAULTS, MAX_TEXT, kind_of, to_text

Quote: TypeAlias = Callable[[str], str]

_IN_SHELL = re.compile(  # what keeps a quoted word from being one: quotes, backticks, a backslash, comments, here documents
    r"""'[^']*(?:'|\Z)|"(?:\\.|[^"\\])*(?:"|\\?\Z)|`[^`]*(?:`|\Z)|\\.|(?<![^\s;&|()])\#[^\n]*"""
    r"""|(?<!<)<<(?!<)-?[ \t]*['"\\]?([A-Za-z_]\w*).*?(?:\n[ \t]*\1[ \t]*(?=\n|\Z)|\Z)""",
    re.DOTALL,
)


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
    for is_expression, piece in split(text):
        if is_expression:
            parts.append(parse_bare(piece))
        elif parts and isinstance(last := parts[-1], str):
            parts[-1] = last + piece
        else:
            parts.append(piece)
    return Template(parts=tuple(parts), **union(part for part in parts if isinstance(part, Expression)))


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
        return Value(body=text, plain=False, constant=all(isinstance(part, str) for part in text.parts), **union([text]))
    if isinstance(value, Mapping):
        body: Any = {key: compile_value(item, _depth + 1) for key, item in value.items()}
        children = list(body.values())
    elif isinstance(value, list | tuple):
        body = children = [compile_value(item, _depth + 1) for item in value]
    else:
        return Value(body=value, plain=True, constant=True)
    if all(child.plain for child in children):
        return Value(body=value, plain=True, constant=True)
    return Value(body=body, plain=False, constant=all(child.constant for child in children), **union(children))


def _substitute(expression: Expression, scope: Scope, quote: Quote | None) -> str:
    value = expression.evaluate(scope)
    try:
        if quote is None:
            return to_text(value)
        words = value if isinstance(value, list | tuple) else [value]
        return " ".join(quote(to_text(word)) for word in words)
    except FAULTS:
        raise ExpressionError(f"expected a JSON value, found {kind_of(value)}", expression.source) from None


def _escape(value: Any) -> Any:
    """The value with no text in it that a template would take for an expression."""
    if isinstance(value, str):
        return value.replace("${{", "$${{")
    if isinstance(value, Mapping):
        return {key: _escape(item) for key, item in value.items()}
    return [_escape(item) for item in value] if isinstance(value, list | tuple) else value

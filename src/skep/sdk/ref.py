"""Values that are known only when a workflow runs: what a task will give, an input, the item of a map."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

import msgspec

# A Ref in an f-string becomes text between these two, which Unicode reserves for a process's own use; in the workflow it then
# is an expression, while a `${{` that was text from the start stays text.
_START, _END = "\ufdd0", "\ufdd1"
_MARK: Final = re.compile(f"{_START}(.*?){_END}", re.DOTALL)
_SIGNS: Final = dict(
    zip(
        ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "and", "or"),
        ("==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "//", "%", "and", "or"),
        strict=True,
    )
)


class Ref:
    """Stands for a value while the workflow is built: `ref.key`, `ref["key"]`, `ref[0]`, `f"… {ref} …"`.

    Operators make expressions: `ref == 3`, `ref + 1`, and `&`, `|`, `~` for and, or, not. It has no value yet, so `if ref` and
    `for x in ref` raise TypeError.
    """

    __slots__ = ("_source", "_task")

    def __init__(self, source: str, task: str = "") -> None:
        self._source = source
        self._task = task

    def __getattr__(self, key: str) -> Ref:
        if key.startswith("_"):  # what copy, inspect and others ask every object for; such a key is ref["_key"]
            raise AttributeError(f"a Ref has no attribute {key}; for a key of that name write ref[{key!r}]")
        return self[key]

    def __getitem__(self, key: str | int | Ref) -> Ref:
        return Ref(f"{self._source}{_step(key)}", self._task)

    def __str__(self) -> str:
        return f"{_START}{self._source}{_END}"

    def __format__(self, spec: str) -> str:
        if spec:
            raise TypeError(f"{self!r} has no value yet, so it cannot be formatted with {spec!r}")
        return str(self)

    def __repr__(self) -> str:
        return f"Ref({self._source})"

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} has no value while the workflow is built; decide with .options(when=…), join with & | ~")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self!r} has no value while the workflow is built; make a task for each item with .map(…)")

    def __invert__(self) -> Ref:
        return Ref(f"(not {self._source})")


def _operator(sign: str, swapped: bool = False) -> Callable[[Ref, Any], Ref]:
    def combine(self: Ref, other: Any) -> Ref:
        left, right = (_literal(other), _literal(self)) if swapped else (_literal(self), _literal(other))
        return Ref(f"({left} {sign} {right})")

    return combine


for _name, _sign in _SIGNS.items():
    setattr(Ref, f"__{_name}__", _operator(_sign))
    if _sign[0] not in "=!<>":  # Python swaps comparisons by itself
        setattr(Ref, f"__r{_name}__", _operator(_sign, swapped=True))

item: Final[Any] = Ref("item")
"""The item of a task that is mapped over a list."""
index: Final[Any] = Ref("index")
"""The position, from 0, of that item."""


def task_ref(name: str) -> Ref:
    """What the task gives back."""
    return Ref(f"tasks{_step(name)}.output", name)


def input_ref(name: str) -> Ref:
    """An input of the workflow."""
    return Ref(f"inputs{_step(name)}")


def secret(name: str) -> Any:
    """A secret, filled in where the task runs: for arguments, commands and `env`; never for conditions or outputs."""
    return Ref(f"secrets{_step(name)}")


def task_name(needed: Any) -> Any:
    """The name of the task that a Ref comes from; anything else as it is. Raises TypeError for a Ref of no task."""
    if not isinstance(needed, Ref):
        return needed
    if not needed._task:
        raise TypeError(f"{needed!r} is no task's result, expected what a task call gave back, or a task's name")
    return needed._task


def value_data(value: Any) -> Any:
    """An argument as JSON with a template for each Ref in it; `${{` in its texts stays text.

    Dataclasses, msgspec structs, dates and the like become JSON as they do in results. Raises TypeError for anything else.
    """
    return _walk(msgspec.to_builtins(value, enc_hook=_mark, str_keys=True), _escape)


def template_data(value: Any) -> Any:
    """An option as YAML would have it: a template for each Ref in it, and its texts are templates already."""
    if isinstance(value, Ref):
        return f"${{{{ {value._source} }}}}"
    return _walk(value, lambda text: text)


def _mark(value: Any) -> str:
    if isinstance(value, Ref):
        return str(value)
    raise TypeError(f"expected JSON (texts, numbers, lists, mappings with text keys), found a {type(value).__name__}")


def _walk(value: Any, plain: Callable[[str], str]) -> Any:
    if isinstance(value, Ref):
        value = str(value)
    if isinstance(value, str):
        return _template(value, plain)
    if isinstance(value, Mapping):
        if any(isinstance(key, str | Ref) and _START in str(key) for key in value):
            raise TypeError("a key of a mapping must be known now, found one with a Ref in it")
        return {key: _walk(inner, plain) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(inner, plain) for inner in value]
    return value


def _template(text: str, plain: Callable[[str], str]) -> str:
    """The text with its marks turned into expressions."""
    if _START not in text:
        return plain(text)
    made = ""
    for at, piece in enumerate(_MARK.split(text)):
        if at % 2 == 0:
            made += plain(piece)
            continue
        before = made.rstrip("$")  # a `$` right before `${{` would make it plain text, so it goes into an expression too
        made = f"{before}${{{{ '{made[len(before) :]}' }}}}" if before != made else made
        made += f"${{{{ {piece} }}}}"
    return made


def _escape(text: str) -> str:
    return text.replace("${{", "$${{")


def _step(key: Any) -> str:
    if isinstance(key, str) and key.isascii() and key.isidentifier() and not keyword.iskeyword(key) and key[:2] != "__":
        return f".{key}"
    if isinstance(key, bool) or not isinstance(key, str | int | Ref):
        raise TypeError(f"expected a key or an index, found a {type(key).__name__}")
    return f"[{_literal(key)}]"


def _literal(value: Any) -> str:
    """A value inside of an expression."""
    match value:
        case Ref():
            return value._source
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case str() if _START not in value:
            return repr(value)
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(_literal, value))}]"
    raise TypeError(f"expected a Ref, a text, a number, true, false, null or a list, found a {type(value).__name__}")

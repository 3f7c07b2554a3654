"""User functions: how they are found, and how what they give or raise becomes data."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from skep.model.encode import encode
from skep.model.node import ErrorInfo

Function = Callable[..., Any]

registry: dict[str, Function] = {}
"""Functions that this process already has, by reference (`@task` puts them here), so that `__main__` is not imported twice."""

MAX_MESSAGE: Final = 4_000
MAX_TRACEBACK: Final = 16_000
MAX_RESULT: Final = 64 * 1024 * 1024
"""Bytes of JSON that a function may return."""

CALLERS: Final = (str(Path(__file__).parent), str(importlib.__file__), "<frozen importlib")
"""Files of the frames between Skep and user code."""

_importing: dict[str, threading.RLock] = {}
"""One lock a file: two threads must not run it at once, and one that hangs holds up only those who want the same."""


class FunctionNotFound(ImportError):
    """The reference of a Python task leads nowhere on this node."""


class ResultError(TypeError):
    """What a function returned cannot be kept."""


def find_function(reference: str) -> Function:
    """The function behind `module:name` or `path/to/file.py:name`. Raises FunctionNotFound, or what the import raises."""
    known = registry.get(reference)
    if known is not None:
        return known
    place, _, name = reference.rpartition(":")
    target: Any = load_file(place) if place.endswith(".py") else importlib.import_module(place)
    for part in name.split("."):
        target = getattr(target, part, None)
    function = getattr(target, "function", target)  # a TaskFunction carries the plain one
    if not callable(function):
        raise FunctionNotFound(f"there is no function '{name}' in {place}: check the task's `python: {reference}`")
    registry[reference] = function
    return function  # type: ignore[no-any-return]


def load_file(path: str) -> ModuleType:
    """Imports a file under a name of its own, once; its folder is importable, as when it is run."""
    file = Path(path).resolve()
    name = "skep_file_" + "".join(c if c.isalnum() else "_" for c in str(file))
    with _importing.setdefault(name, threading.RLock()):
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None or not file.is_file():
            raise FunctionNotFound(f"there is no Python file {path} on this node")
        if str(file.parent) not in sys.path:
            sys.path.insert(0, str(file.parent))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def is_coroutine_function(function: Function) -> bool:
    """Whether a call gives a coroutine; also that of an object whose class has an async `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def arguments(args: Any) -> Mapping[str, Any]:
    """The keyword arguments of a call. Raises TypeError when `with` did not become a mapping."""
    if args is None:
        return {}
    if not isinstance(args, dict):
        raise TypeError(f"`with` must give the arguments by name, got {type(args).__name__}")
    return args


def encode_result(value: Any) -> bytes:
    """What a function returned, as JSON. Raises ResultError with advice when it is not JSON, or too much of it."""
    if value is None:
        return b"null"
    try:
        output = encode(value)
    except Exception as error:  # noqa: BLE001  also what a property of a returned object raises
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            raise ResultError(f"the result is not JSON: {value.__name__} is a generator. Return a list of its values") from None
        raise ResultError(
            f"the result is not JSON: {error}. Return numbers, texts, lists, dictionaries with text keys, dataclasses or "
            "msgspec structs; write anything else to a file and return its path"
        ) from None
    if len(output) > MAX_RESULT:
        size = f"{len(output) / 2**20:.1f} MiB of JSON, at most {MAX_RESULT // 2**20} are taken"
        raise ResultError(f"the result has {size}: write it to a file and return its path")
    return output


def error_info(error: BaseException, skip_frames: int = 0) -> ErrorInfo:
    """An exception as data: type, message, traceback without Skep's own frames, the names of its base classes."""
    trace = error.__traceback__
    for _ in range(skip_frames):
        trace = trace.tb_next if trace is not None else None
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(CALLERS):
        trace = trace.tb_next
    try:
        message = str(error)
        shown = trace is not None or error.__cause__ is not None
        text = "".join(traceback.format_exception(type(error), error, trace)) if shown else ""
    except BaseException as broken:  # noqa: BLE001  user code: even its __str__ may raise
        message, text = f"(its text cannot be made: {type(broken).__name__})", ""
    kind = type(error)
    return ErrorInfo(
        type=kind.__name__,
        message=clean(message)[:MAX_MESSAGE],
        traceback=clean(text)[-MAX_TRACEBACK:],
        parents=tuple(base.__name__ for base in kind.__mro__[1:] if base not in (object, BaseException)),
    )


def clean(text: str) -> str:
    """Text that every JSON reader and database takes: no lone surrogates, no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")

"""Commands that share options: a function is read by Typer as one with the parameters of several."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """By name, with their annotations as they are rather than as they are written."""
    return dict(inspect.signature(function, eval_str=True).parameters)


def shaped(run: Callable[..., None], like: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """`run`, which takes keywords, with the name and the text of `like`, and these parameters."""
    listed = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__name__, run.__doc__ = like.__name__, like.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in listed}
    vars(run)["__signature__"] = inspect.Signature(listed)  # what `inspect.signature` looks at first
    return run

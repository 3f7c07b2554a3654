"""What people write behind options: inputs, labels, durations, priorities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from skep.errors import SpecError
from skep.model.units import parse_duration_ms, parse_priority


def parse_pairs(pairs: Iterable[str], option: str) -> dict[str, str]:
    """`k=v` texts as a dictionary. Raises BadParameter."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"found {pair!r}, expected name=value", param_hint=option)
        found[name] = value
    return found


def parse_inputs(pairs: Sequence[str], file: Path | None) -> dict[str, Any]:
    """The inputs of `--inputs`, and over them those of `--input`. Raises BadParameter, SpecError."""
    inputs: dict[str, Any] = {}
    if file is not None:
        try:
            inputs = msgspec.json.decode(file.read_bytes())
        except OSError as error:
            raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint="--inputs") from None
        except msgspec.DecodeError as error:
            raise SpecError.at("inputs", f"{file} is not JSON: {error}") from None
        if not isinstance(inputs, dict):
            raise SpecError.at("inputs", f"{file} holds a {type(inputs).__name__}, expected a mapping from names to values")
    return {**inputs, **parse_values(pairs, "--input")}


def parse_values(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """`k=v` texts as a dictionary; each value is JSON, else text. Raises BadParameter."""
    return {name: json_or_text(value) for name, value in parse_pairs(pairs, option).items()}


def json_or_text(text: str) -> Any:
    """The value that somebody wrote."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def parse_timeout(text: str | None) -> int:
    """Milliseconds; 0 for none. Raises BadParameter."""
    return parse_span(text, "--timeout")


def parse_span(text: str | None, option: str) -> int:
    """Milliseconds of a duration; 0 for none. Raises BadParameter."""
    try:
        return parse_duration_ms(text) if text else 0
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def parse_urgency(text: str | None) -> int:
    """A priority; 0 for none. Raises BadParameter."""
    try:
        return parse_priority(text) if text else 0
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--priority") from None

"""What people write behind options: inputs, labels, nodes, durations, priorities."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from skep.config import SECRET, secrets_from
from skep.errors import SpecError
from skep.model.node import NodeInfo
from skep.model.units import parse_bytes, parse_duration_ms, parse_priority
from skep.node.probe import node_info, probe


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
    return {**inputs, **{name: _json_or_text(value) for name, value in parse_pairs(pairs, "--input").items()}}


def take_secrets() -> dict[str, str]:
    """The secrets in the environment of this process, out of which they are taken: nothing that it starts inherits them."""
    secrets = secrets_from(os.environ)
    for name in secrets:
        del os.environ[SECRET + name]
    return secrets


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def parse_timeout(text: str | None) -> int:
    """Milliseconds; 0 for none. Raises BadParameter."""
    try:
        return parse_duration_ms(text) if text else 0
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timeout") from None


def parse_urgency(text: str | None) -> int:
    """A priority; 0 for none. Raises BadParameter."""
    try:
        return parse_priority(text) if text else 0
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--priority") from None


def local_nodes(texts: Sequence[str]) -> list[NodeInfo]:
    """The nodes of `--node`, else one with all that this machine has. Raises BadParameter."""
    probed = node_info("local", probe())
    nodes = [_node(text, probed) for text in texts] or [probed]
    if twice := {node.id for node in nodes if sum(other.id == node.id for other in nodes) > 1}:
        raise typer.BadParameter(f"there are two nodes {', '.join(twice)}; give each a name of its own", param_hint="--node")
    return nodes


def _node(text: str, probed: NodeInfo) -> NodeInfo:
    head, *rest = text.split(";")
    name, colon, words = head.partition(":")
    changes: dict[str, Any] = {"id": name.strip(), "labels": {}}
    if colon:
        changes["capabilities"] = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    try:
        if not changes["id"]:
            raise ValueError("a node needs a name")
        for pair in filter(None, rest):
            key, _, value = (part.strip() for part in pair.partition("="))
            if key == "slots":
                if not (value.isdecimal() and int(value)):
                    raise ValueError(f"slots: found {value!r}, expected a whole number from 1")
                changes["slots"] = int(value)
            elif key == "cpu":
                changes["cpu_milli"] = _milli(value)
            elif key in ("memory", "vram"):
                changes[key] = parse_bytes(value)
            else:
                changes["labels"][key] = value
    except ValueError as error:
        example = "name:cap,cap;slots=4;cpu=2;memory=8GB;label=value"
        raise typer.BadParameter(f"{text!r}: {error}; expected {example}", param_hint="--node") from None
    return msgspec.structs.replace(probed, **changes)


def _milli(text: str) -> int:
    """Thousandths of a core. Raises ValueError."""
    try:
        cores = float(text)
    except ValueError:
        cores = 0
    if not 0 < cores < 1_000_000:
        raise ValueError(f"cpu: found {text!r}, expected a number of cores such as 2 or 0.5")
    return round(cores * 1_000)

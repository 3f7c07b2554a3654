"""What this machine gives: its nodes, as `--node` has them, and the secrets of its environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import typer

from skep.config import SECRET, secrets_from
from skep.model.node import NodeInfo
from skep.model.units import parse_bytes
from skep.node.probe import node_info, probe

AMOUNTS: Final = {"cost": "cost_per_hour", "weight": "weight"}
"""Numbers that a node says of itself, by what they are called here."""
NODE: Final = 'A local node, such as "fast:cpu,ssd;slots=4"; without ":" it has what this machine has. Repeat it.'


def take_secrets() -> dict[str, str]:
    """The secrets in the environment of this process, out of which they are taken: nothing that it starts inherits them."""
    secrets = secrets_from(os.environ)
    for name in secrets:
        del os.environ[SECRET + name]
    return secrets


def local_nodes(texts: Sequence[str], name: str = "local") -> list[NodeInfo]:
    """The nodes of `--node`, else one of this name with all that this machine has. Raises BadParameter."""
    probed = node_info(name, probe())
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
                changes["cpu_milli"] = milli(value)
            elif key in ("memory", "vram"):
                changes[key] = parse_bytes(value)
            elif key in AMOUNTS:
                changes[AMOUNTS[key]] = _amount(key, value)
            else:
                changes["labels"][key] = value
    except ValueError as error:
        example = "name:cap,cap;slots=4;cpu=2;memory=8GB;cost=0.5;label=value"
        raise typer.BadParameter(f"{text!r}: {error}; expected {example}", param_hint="--node") from None
    return msgspec.structs.replace(probed, **changes)


def _amount(key: str, text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < 1_000_000:
        raise ValueError(f"{key}: found {text!r}, expected a number from 0, such as 0.5")
    return amount


def milli(text: str) -> int:
    """Thousandths of a core. Raises ValueError."""
    try:
        cores = float(text)
    except ValueError:
        cores = 0
    if not 0 < cores < 1_000_000:
        raise ValueError(f"cpu: found {text!r}, expected a number of cores such as 2 or 0.5")
    return round(cores * 1_000)

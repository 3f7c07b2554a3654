"""How the nodes of a fleet stand to a task that wants one. Pure: what nodes have and say is handed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from skep.model.node import LiveNode, Requirement
from skep.model.units import format_bytes
from skep.model.why import CandidateView
from skep.router.fit import lack

SILENT_MS: Final = 5_000
"""Without a sign of life for so long a node is taken for silent; at 10 s it is lost."""
SHOWN: Final = 20
"""Nodes that an answer tells of one by one."""
NAMED: Final = 5
"""Nodes that a sentence names."""
ABLE: Final = ("unhealthy", "full", "draining", "silent", "coming")
"""What keeps out a node that can run it; of several the first one names the cause."""
REMEDIES: Final = {
    "executor": "start a node that runs such tasks",
    "resources": "start a larger node, or ask for less in `resources`",
    "unable": "start a node that has all of it",
    "silent": "wait: a silent node comes back, or is lost after 10 s",
    "coming": "wait a moment: it still says what it works on",
    "full": "wait until an attempt there ends, or start another node",
}


PLURALS: Final = {"lacks": "lack", "has": "have", "is": "are", "does": "do", "gives": "give"}


class Verdict(NamedTuple):
    """A cause, told of one task."""

    because: str
    text: str
    unblock: str = ""
    until_ms: int = 0


class Standing(NamedTuple):
    """All nodes, for one task."""

    verdict: Verdict | None
    """Why it goes to none of them; None: there is room."""
    out: Mapping[str, tuple[str, str]]
    """Node to what keeps the task off it: a word, and the same as people say it."""
    room: Sequence[str]
    """Nodes with room for it."""


def standing(wanted: Requirement, nodes: Sequence[LiveNode], now_ms: int, unhealthy: Sequence[str] = ()) -> Standing:
    """`unhealthy`: nodes that the router shuts off for such tasks."""
    if not nodes:
        return Standing(Verdict("no_nodes", "there are no nodes", "start one: `skep up`, or `skep node --server URL`"), {}, ())
    out = {node.info.id: found for node in nodes if (found := _out(wanted, node, now_ms))[0]}
    trusted = [node.info.id for node in nodes if out.get(node.info.id, ("full", ""))[0] == "full"]
    if not set(trusted) <= set(unhealthy):  # where none is trusted, all of them are tried
        out |= {node: ("unhealthy", "is shut off: such tasks kept failing there") for node in trusted if node in unhealthy}
    room = [node.info.id for node in nodes if node.info.id not in out]
    return Standing(None if room else _verdict(wanted, out), out, room)


def _out(wanted: Requirement, node: LiveNode, now_ms: int) -> tuple[str, str]:
    info = node.info
    word, text = lack(wanted, info)
    if word:
        return word, text
    if node.beat_ms and now_ms - node.beat_ms > SILENT_MS:
        return "silent", "gives no sign of life"
    if node.draining:
        return "draining", "is draining"
    if node.coming:
        return "coming", "has just come"
    short = [
        _short(resource, node.free.get(resource, 0)) for resource, units in wanted.takes() if node.free.get(resource, 0) < units
    ]
    return ("full", f"has {' and '.join(short)}") if short else ("", "")


def _short(resource: str, free: int) -> str:
    if resource == "slots":
        return "no free slot"
    if resource == "cpu":
        return f"{max(free, 0) / 1000:g} cores free"
    return f"{format_bytes(max(free, 0))} of {resource} free"


def _verdict(wanted: Requirement, out: Mapping[str, tuple[str, str]]) -> Verdict:
    able = {node: found for node, found in out.items() if found[0] in ABLE}
    words = {word for word, _ in (able or out).values()}
    if able:
        word: str = next(word for word in ABLE if word in words)
        text = f"the nodes that can run it have no room: {_listed(able)}" if len(words) > 1 or word == "full" else _listed(able)
        return Verdict(word, text, _remedy(word, wanted, [node for node, found in able.items() if found[0] == word]))
    word = words.pop() if len(words) == 1 else "unable"
    return Verdict(word, f"no node can run it: {_listed(out)}", _remedy(word, wanted, list(out)))


def _listed(out: Mapping[str, tuple[str, str]]) -> str:
    """`a, b and 3 more lack gpu; c is draining`, in the order of what they say."""
    by_text = sorted(out.items(), key=lambda item: (item[1][1], item[0]))
    groups = [([node for node, _ in group], text) for text, group in groupby(by_text, key=lambda item: item[1][1])]
    return "; ".join(f"{_names(nodes)} {text if len(nodes) == 1 else _plural(text)}" for nodes, text in groups)


def _names(nodes: Sequence[str]) -> str:
    more = len(nodes) - NAMED
    if more > 0:
        return f"{', '.join(nodes[:NAMED])} and {more:,} more"
    return " and ".join([", ".join(nodes[:-1]), nodes[-1]] if len(nodes) > 1 else nodes)


def _plural(text: str) -> str:
    """Of several nodes."""
    verb, space, rest = text.partition(" ")
    return PLURALS[verb] + space + rest


def _remedy(word: str, wanted: Requirement, nodes: Sequence[str]) -> str:
    if word == "draining":
        return f"`skep drain {nodes[0]} --undo`"
    if word == "app":
        return f"`skep node --app {wanted.app}`"
    if word == "capability":
        given = [f"--label {word}" if "=" in word else f"--capability {word}" for word in wanted.requires]
        return f"start a node that has it: `skep node {' '.join(given)}`"
    if word == "unhealthy":
        return "wait until an attempt elsewhere ends, or a trial there succeeds"
    return REMEDIES[word]


def candidates(found: Standing, nodes: Sequence[LiveNode]) -> Iterator[CandidateView]:
    """Nodes as people see them: those with room first, then those that are able."""
    order = {word: at for at, word in enumerate(("", *ABLE))}
    outs = [(node.info.id, *found.out.get(node.info.id, ("", ""))) for node in nodes]
    for node, _, text in sorted(outs, key=lambda one: (order.get(one[1], len(order)), one[0]))[:SHOWN]:
        yield CandidateView(node=node, out=text)

"""The scripts: one verb, one file, one header. A header that does not fit its method fails here, at import.

A header says, a line each: the purpose; `keys` as `skep.engine.redis.keys` names them; `args`, each with its kind, as the
method has them; `item`, the fields of what the list holds; `answers`; `events`; `lease`, who may call; `include`, what is put
in front; and `time: stands` where engine time does not go on.

Every script is called with the key `epoch`, and with: epoch, time (empty: the store's own), who calls, whether it places (1),
the args, payloads.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Final, NamedTuple

from skep.engine import protocol
from skep.engine.redis.keys import NAMES
from skep.model.run import EXCLUSIVE, MAX_TASKS, Policy
from skep.model.state import RunState, TaskState

LUA: Final = files("skep.engine.redis") / "lua"
MODULES: Final = (
    "state",
    "live",
    "nodes",
    "leases",
    "ready",
    "claims",
    "ends",
    "restore",
    "opening",
    "tasks",
    "commands",
    "look",
)
FIRST_ARGUMENT: Final = 5
"""What stands before in ARGV, counted from 1: epoch, time, who calls, whether it places."""
SMALL_LOOK: Final = 64
"""Ready tasks: with no more than these, what made some ready tells of them all."""
KINDS: Final = {
    "packed": "cmsgpack.unpack(ARGV[{}])",
    "number": "tonumber(ARGV[{}])",
    "text": "ARGV[{}]",
    "flag": 'ARGV[{}] == "1"',
}
ANSWERS: Final = {
    "OK": protocol.OK,
    "NOT_FOUND": protocol.NOT_FOUND,
    "WRONG_STATE": protocol.WRONG_STATE,
    "SUPERSEDED": protocol.SUPERSEDED,
    "CHANGED": protocol.CHANGED,
    "NO_FIT": protocol.NO_FIT,
    "WAITING_ANSWER": protocol.WAITING,
    "PAUSED": protocol.PAUSED,
    "CANCELLING": protocol.CANCELLING,
    "EXPIRED": protocol.EXPIRED,
    "FULL": protocol.FULL,
    "REFUSED": protocol.REFUSED,
}
CONSTANTS: Final[dict[str, int | str]] = {
    **{state.name: int(state) for state in TaskState},
    **{f"RUN_{state.name}": int(state) for state in RunState},
    **{f"POLICY_{policy.name}": int(policy) for policy in Policy},
    **ANSWERS,
    **{f"BY_{how}": number for number, how in enumerate(("COMPLETE", "FAIL", "SNOOZE", "PARK", "RETURN"), 1)},
    "RELEASE_LIMIT": protocol.RELEASE_LIMIT,
    "LOAD_VALID_MS": protocol.LOAD_VALID_MS,
    "FORGET_MS": protocol.FORGET_MS,
    "MAX_TASKS": MAX_TASKS,
    "EXCLUSIVE": EXCLUSIVE,
    "CLAIMS_KEPT_MS": 15_000,
    "CLOCK_STEP_MS": 5_000,
    "SMALL_RUN": 16,
    "LOOK_LIMIT": 1_000,
    "HOLDERS": protocol.HOLDERS,
    "HOLDERS_LOOK": 20_000,
    "FORGET_LIMIT": 300,
    "STATS_LOOK": 250,
    "SMALL_LOOK": SMALL_LOOK,
}


class Script(NamedTuple):
    """One verb, ready to be sent."""

    verb: str
    text: str
    sha: str
    args: tuple[tuple[str, str], ...]
    """(name, kind)."""
    header: dict[str, str]

    @property
    def first_payload(self) -> int:
        """The place of the first payload in ARGV, counted from 1."""
        return FIRST_ARGUMENT + len(self.args)


def header_of(text: str) -> dict[str, str]:
    """The header's lines by what they say; lines that go on are joined."""
    found: dict[str, str] = {}
    last = "purpose"
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        match = re.match(r"-- (keys|args|item|answers|events|lease|include|time):(.*)", line)
        if match:
            last = match[1]
            found[last] = match[2].strip()
        else:
            found[last] = f"{found.get(last, '')} {line[2:].strip()}".strip()
    return found


def _include(name: str, seen: list[str]) -> None:
    """Adds an include and before it what it includes itself."""
    if name in seen:
        return
    text = (LUA / "include" / f"{name}.lua").read_text(encoding="utf-8")
    for other in header_of(text).get("include", "").split():
        _include(other, seen)
    seen.append(name)


def _places(what: str) -> dict[str, int]:
    """The places of a list's names, as `live.lua` declares them."""
    text = (LUA / "include" / "live.lua").read_text(encoding="utf-8")
    found = re.search(rf"^-- {what}:((?:.|\n--   )*)", text, re.MULTILINE)
    assert found is not None, f"live.lua names no places of a {what}"
    return {name: at for at, name in enumerate(found[1].replace("--", " ").split(), 1)}


HEAD: Final = _places("head")
RECORD: Final = _places("record")
_OF_RUN: Final = re.compile(rf"(?<![\w.])run\.({'|'.join(HEAD)})\b")
_OF_TASK: Final = re.compile(rf"((?<![\w.])[rs]|live\.(?:task|touch)\([^()]*\))\.({'|'.join(RECORD)})\b")


def _code(name: str) -> str:
    """A file without its comments; `run.state`, `r.state` and `live.task(…).state` are turned into places of a list."""
    lines = (LUA / name).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("--"))
    text = _OF_RUN.sub(lambda match: f"run.h[{HEAD[match[1]]}]", text)
    return _OF_TASK.sub(lambda match: f"{match[1]}[{RECORD[match[2]]}]", text)


_FUNCTION: Final = re.compile(r"(?:local )?function ([\w.]+)\(")


def _blocks(code: str) -> list[tuple[str, str]]:
    """(name, text) of each function, and of what stands between them under ""."""
    blocks: list[tuple[str, str]] = []
    inside = False
    for line in code.splitlines():
        begins = None if inside else _FUNCTION.match(line)
        if inside or (begins is None and blocks and not blocks[-1][0]):
            blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]}\n{line}")
        else:
            blocks.append((begins[1] if begins else "", line))
        inside = line != "end" and (inside or (begins is not None and not line.endswith(" end")))
    return blocks


def _pruned(codes: Sequence[str]) -> list[str]:
    """Without functions that the last of them, the verb, does not come to: each costs a microsecond at each call."""
    parts = [_blocks(code) for code in codes[:-1]]
    left = [(name, text) for blocks in parts for name, text in blocks if name]
    wanted = {""}
    new = [codes[-1], *(text for blocks in parts for name, text in blocks if not name)]
    while new:
        said = "\n".join(new)
        found = {name for name, _ in left if name not in wanted and re.search(rf"(?<![\w.]){re.escape(name)}\b", said)}
        wanted |= found
        new = [text for name, text in left if name in found]
    return ["\n".join(text for name, text in blocks if name in wanted) for blocks in parts] + [codes[-1]]


def check(verb: str, header: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The arguments that a header names, (name, kind) each. Raises TypeError where it does not fit the method or the keys."""
    given = [part.split() for part in header.get("args", "").split(",") if part.strip()]
    args = tuple((name, kind) for name, kind in given)
    missing = {"purpose", "keys", "args", "answers", "events", "lease", "include"} - header.keys()
    if missing:
        raise TypeError(f"{verb}.lua: the header does not say {', '.join(sorted(missing))}")
    method = getattr(protocol.Engine, verb, None)
    if method is None:
        raise TypeError(f"{verb}.lua: the engine has no such verb")
    wanted = tuple(inspect.signature(method).parameters)[1:]
    if wanted != tuple(name for name, _ in args):
        raise TypeError(f"{verb}.lua: the header has the arguments {args}, the method {wanted}")
    unknown = set(header["keys"].split()) - NAMES
    if unknown:
        raise TypeError(f"{verb}.lua: keys.py knows no {', '.join(sorted(unknown))}")
    return args


def _build(verb: str) -> Script:
    header = header_of((LUA / f"{verb}.lua").read_text(encoding="utf-8"))
    args = check(verb, header)
    includes: list[str] = []
    for name in header["include"].split():
        _include(name, includes)
    frame = "state.begin()\n" + ("" if header.get("time") == "stands" else "state.tick()\n")
    code = _pruned([*(_code(f"include/{name}.lua") for name in includes), frame + _code(f"{verb}.lua")])
    body = "\n".join(code)
    used = {name: value for name, value in CONSTANTS.items() if re.search(rf"\b{name}\b", body)}
    bound = [f"{name} = {KINDS[kind].format(FIRST_ARGUMENT + at)}" for at, (name, kind) in enumerate(args)]
    text = "\n".join(
        [
            'local open = redis.call("GET", KEYS[1])',
            "if open ~= ARGV[1] then",
            '  return redis.error_reply(open and "STALE " .. open or "GONE")',
            "end",
            "local EPOCH, P = tonumber(ARGV[1]), string.sub(KEYS[1], 1, -6) .. ARGV[1] .. ':'",
            *(f"local {name} = {value!r}" for name, value in used.items()),
            f"local {', '.join(MODULES)}",
            "local function payload(number) return number > 0 and ARGV[number] or nil end",
            f"local args = {{{', '.join(bound)}}}",
            *code,
        ]
    )
    return Script(verb, text, hashlib.sha1(text.encode()).hexdigest(), args, header)


SCRIPTS: Final = {path.name[:-4]: _build(path.name[:-4]) for path in LUA.iterdir() if path.name.endswith(".lua")}

"""Secrets: filled in on the node at the start of an attempt, and kept out of everything it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from skep.config import SECRET
from skep.flow.evaluation import ExpressionError, Scope
from skep.flow.templates import compile_value
from skep.model.node import Call, ErrorInfo

MASK = b"***"
MIN_SECRET = 4
"""Characters; a shorter secret would be found, and masked, everywhere."""


class Failed(Exception):
    """Ends an attempt with `info`."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


class Mask:
    """Puts `***` in the place of secrets, also of one that is cut across two chunks."""

    def __init__(self, values: Collection[str] = ()) -> None:
        found = {form for value in values for form in _forms(value) if len(form) >= MIN_SECRET}
        self._forms = sorted((form.encode(errors="surrogateescape") for form in found), key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._forms))) if found else None

    def cut(self, data: bytes) -> tuple[bytes, bytes]:
        """What of `data` can go on, masked, and the rest: the beginning, perhaps, of a secret that the next chunk completes."""
        if self._pattern is None:
            return data, b""
        end, position, done = self._undecided(data), 0, []
        for match in self._pattern.finditer(data):
            if match.start() >= end:
                break
            done += [data[position : match.start()], MASK]
            position = match.end()
        end = max(end, position)
        return b"".join([*done, data[position:end]]), data[end:]

    def whole(self, data: bytes) -> bytes:
        return self._pattern.sub(MASK, data) if self._pattern else data

    def text(self, text: str) -> str:
        return self.whole(text.encode(errors="surrogateescape")).decode(errors="replace") if self._pattern else text

    def info(self, info: ErrorInfo) -> ErrorInfo:
        message, traceback = self.text(info.message), self.text(info.traceback)
        return msgspec.structs.replace(info, message=message, traceback=traceback) if self._pattern else info

    def json(self, data: bytes) -> bytes:
        return msgspec.json.encode(self._value(msgspec.json.decode(data))) if self._pattern else data

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.text(key): self._value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, str):
            return self.text(value)
        shown = str(value)  # a number may be a secret too
        return value if (masked := self.text(shown)) == shown else masked

    def _undecided(self, data: bytes) -> int:
        """Where the first suffix of `data` starts that is the beginning of a longer secret."""
        for start in range(max(0, len(data) - len(self._forms[0]) + 1), len(data)):
            suffix = data[start:]
            if any(len(form) > len(suffix) and form.startswith(suffix) for form in self._forms):
                return start
        return len(data)


def _forms(secret: str) -> set[str]:
    """How a secret may show: as it is, line by line, and as a shell (`set -x`), JSON or a URL writes it."""
    escaped = msgspec.json.encode(secret.encode(errors="replace").decode()).decode()[1:-1]
    in_url = [quote(secret, safe, errors="surrogatepass") for safe in ("", "/")]
    lines = (line.strip() for line in secret.splitlines())
    return {secret, secret.strip(), shlex.quote(secret), escaped, *in_url, *lines}


def fill_secrets(call: Call, secrets: Mapping[str, str]) -> tuple[Call, Mask]:
    """The call with its secrets in place, and the mask for what comes back. Raises Failed (`Secrets`) when one is missing."""
    if not call.needs_secrets:
        return call, Mask()
    in_shell = shlex.quote if call.executor == "run" and isinstance(call.call, str) else None
    scope = Scope({"secrets": secrets})
    named: set[str] = set()
    filled: dict[str, Any] = {}
    try:
        for part in ("call", "args", "env", "cwd"):
            value = compile_value(getattr(call, part))
            named |= value.secrets
            filled[part] = value.render(scope, in_shell if part == "call" else None)
    except ExpressionError as error:  # its text never holds a value
        missing = sorted(named - secrets.keys())
        listed = ", ".join(f"'{name}'" for name in missing)
        advice = f"this node has no secret {listed}; set {SECRET}{missing[0]} where Skep is started" if missing else str(error)
        raise Failed(ErrorInfo("Secrets", advice)) from None
    if isinstance(filled["call"], list | tuple):
        filled["call"] = tuple(map(_word, filled["call"]))
    if filled["env"]:
        filled["env"] = {name: _word(value) for name, value in filled["env"].items()}
    mask = Mask([secrets[name] for name in named if name in secrets])
    return msgspec.structs.replace(call, needs_secrets=False, **filled), mask


def _word(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

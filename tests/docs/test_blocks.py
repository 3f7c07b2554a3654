"""Every block of code in the manual is proved: it compiles, runs, and prints what the manual says it prints.

- `yaml`: a whole workflow. It is read and compiled.
- `python`: a whole file. It is executed.
- `<!-- run ARGUMENTS -->` in the line above one of these: it goes through `skep run FILE ARGUMENTS`, and must succeed.
  `<!-- run ARGUMENTS : CODE -->` says which exit code it has instead.
- `console`: its `$` lines are run in a folder that holds the files of the blocks before it; the lines below each, if any, must
  be in what it prints, in this order; `…` stands for any text. A line that ends with ` &` starts a server, for the rest of
  the block. `<!-- databases -->` in the line above: `SKEP_ENGINE` and `SKEP_RECORD` name a Redis and a PostgreSQL of its own.

A block's file name is the one in brackets in the text above it: (`hello.yaml`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple, Protocol

import pytest

from skep.flow.plan import compile_plan
from skep.sdk.yaml import load_text
from skep.testing.servers import PostgresServer, RedisServer

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"\(`([\w./-]+\.\w+)`\)")
_RUN = re.compile(r"<!-- run(?P<arguments>.*?)(?: : (?P<code>\d))? -->\s*\Z")
_DATABASES = re.compile(r"<!-- databases -->\s*\Z")
_NOT_HERE = ("make ",)
"""Commands that run all tests or watch for minutes are proved elsewhere."""


class Terminal(Protocol):
    environment: dict[str, str]

    def __call__(self, line: str, folder: Path = ...) -> CompletedProcess[str]: ...
    def up(self, line: str, folder: Path) -> None: ...
    def close(self) -> None: ...


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str
    file: str
    """Empty: it has no name of its own."""
    run: str | None
    """Arguments of `skep run`; None: it is not run."""
    code: int
    databases: bool

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    end = 0
    for found in _FENCE.finditer(text):
        above, end = text[end : found.start()], found.end()
        marked = _RUN.search(above)
        paragraph = above[: marked.start() if marked else None].strip().split("\n\n")[-1]
        names = _FILE.findall(paragraph)
        yield Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found[1],
            found[2],
            names[-1] if names else "",
            marked["arguments"].strip() if marked else None,
            int(marked["code"] or 0) if marked else 0,
            bool(_DATABASES.search(above)),
        )


ALL = [block for page in PAGES for block in blocks(page)]


def some(*languages: str) -> pytest.MarkDecorator:
    chosen = [block for block in ALL if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: block.place)


def test_there_are_blocks() -> None:
    assert {"yaml", "python", "console"} <= {block.language for block in ALL}


def test_every_block_is_of_a_language_that_is_proved() -> None:
    known = {"yaml", "python", "console", "mermaid", "text", "json", "sh"}  # sh: long runs, proved by tests/examples
    assert [block.place for block in ALL if block.language not in known] == []


@some("yaml")
def test_workflows_compile(block: Block) -> None:
    compile_plan(load_text(block.text, block.place))


@some("yaml", "python")
def test_files_run(block: Block, terminal: Terminal, tmp_path: Path) -> None:
    if block.run is None and block.language == "yaml":
        return  # compiled above
    folder = tmp_path / "work"
    _write_before(block, folder)
    file = folder / (block.file or f"example.{'py' if block.language == 'python' else 'yaml'}")
    file.write_text(block.text)
    ended = terminal(f"python {file.name}" if block.run is None else f"skep run {file.name} {block.run}", folder)
    assert ended.returncode == block.code, f"{block.place}\n{ended.stdout}"


@some("console")
def test_commands_run(block: Block, terminal: Terminal, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if block.databases:
            redis, postgres = stack.enter_context(RedisServer()), stack.enter_context(PostgresServer())
            terminal.environment.update(SKEP_ENGINE=redis.url, SKEP_RECORD=postgres.url)
        stack.callback(terminal.close)
        _run_commands(block, terminal, tmp_path / "work")


def _run_commands(block: Block, terminal: Terminal, folder: Path) -> None:
    _write_before(block, folder)
    if "examples/" in block.text:
        (folder / "examples").symlink_to(ROOT / "examples")
    for command, shown in _commands(block.text):
        if command.startswith(_NOT_HERE):
            continue
        if command.endswith(" &"):
            terminal.up(command.removesuffix(" &"), folder)
            continue
        ended = terminal(command, folder)
        said = f"{block.place}: $ {command}\nexit code {ended.returncode}\n{ended.stdout}"
        if shown:
            pattern = r"[ ]*\n".join(re.escape(line).replace("…", ".*?") for line in shown)
            assert re.search(f"^{pattern}", ended.stdout, re.MULTILINE), f"{said}\nexpected\n" + "\n".join(shown)
        else:
            assert ended.returncode == 0, said


def _write_before(block: Block, folder: Path) -> None:
    """The files of this page up to the block."""
    folder.mkdir()
    for other in ALL:
        if other.page == block.page and other.line < block.line and other.file:
            (folder / other.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / other.file).write_text(other.text)


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    lines = text.rstrip("\n").split("\n")
    assert lines[0].startswith("$ "), "a console block starts with a command"
    command, shown = "", list[str]()
    for line in lines:
        if line.startswith("$ "):
            if command:
                yield command, shown
            command, shown = line[2:].partition("  # ")[0].strip(), []
        else:
            shown.append(line)
    yield command, shown


# -- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text("utf-8"))
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            dead.append(target)
    assert dead == []


def _anchors(page: Path) -> set[str]:
    """Those that a heading gets."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}

"""The reference is never stale: its tables are those that the code makes, and nothing that has a name is missing."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import pytest

import skep
from skep import errors
from skep.cli.app import COMMANDS
from skep.errors import SkepError
from skep.flow.functions import ARITY
from skep.model import calls, keys
from skep.model.event import Event
from skep.node.context import Checkpoint, SharedState, TaskContext
from skep.record.fold import STEPS

ROOT = Path(__file__).parents[2]
Terminal = Callable[[str], CompletedProcess[str]]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generator()
REFERENCE = (ROOT / "docs" / "reference.md").read_text("utf-8")


@pytest.mark.parametrize("page", generate.generated(), ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path) -> None:
    assert page.read_text("utf-8") == generate.generated()[page], "renew it: make docs"


def _mentioned(name: str) -> bool:
    return re.search(rf"`[^`\n]*(?<![\w-]){re.escape(name)}(?![\w-])[^`\n]*`", REFERENCE) is not None


TABLES = (keys.WORKFLOW, keys.TASK, *calls.TABLES.values(), keys.RETRY, keys.LOCK, keys.RESOURCES, keys.PLACEMENT, keys.HANDLER)
CONTEXT = [name for kind in (TaskContext, Checkpoint, SharedState) for name in dir(kind) if not name.startswith("_")]
EVERYTHING = sorted(
    {
        *(name for table in TABLES for name in table.by_key),
        *ARITY,
        *CONTEXT,
        *skep.__all__,
        *(name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, SkepError)),
    }
)


@pytest.mark.parametrize("name", EVERYTHING)
def test_it_is_mentioned(name: str) -> None:
    assert _mentioned(name)


def test_every_command_has_its_heading() -> None:
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for name in COMMANDS:
        assert f"\n### skep {name}\n" in page


def test_every_kind_of_event_has_its_line() -> None:
    section = REFERENCE.partition("## Events")[2].partition("## Limits")[0]
    rows = re.findall(r"^\| ([\w, ]+) \| [\w ]+ \|", section, re.MULTILINE)
    listed = {word.strip() for row in rows for word in row.split(",")} - {"kind"}
    assert listed == set(STEPS) | {"registered", "draining", "retired", "lost"}
    assert {"n", "kind"} <= set(Event.__struct_fields__)


def test_every_exit_code_has_its_row() -> None:
    set_later = map(int, re.findall(r"exit_code = (\d)", _sources("errors.py")))
    for code in {0, 2, *set_later, *(kind.exit_code for kind in _errors(SkepError))}:
        assert re.search(rf"^\| {code} \| ", REFERENCE, re.MULTILINE)


def _errors(kind: type[SkepError]) -> set[type[SkepError]]:
    return {kind}.union(*(_errors(child) for child in kind.__subclasses__()))


def _sources(name: str) -> str:
    return "\n".join(path.read_text("utf-8") for path in (ROOT / "src" / "skep").rglob(name))


def test_every_type_of_error_has_its_row() -> None:
    made = set(re.findall(r"ErrorInfo\(\s*\"(\w+)\"", _sources("*.py")))
    assert made - generate.ERROR_TYPES.keys() - {"Odd", "Boom"} == set()


def test_the_environment_of_a_command_is_the_one_in_the_table(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text("name: environment\ntasks: {a: {run: 'env | grep -o ^SKEP_[A-Z]*'}}\n")
    ended = terminal("skep run flow.yaml")
    section = REFERENCE.partition("## Environment of a command")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(SKEP_\w+)`", section, re.MULTILINE))
    assert documented == set(re.findall(r"SKEP_[A-Z]+", ended.stdout.partition('"')[2])) - {"SKEP_HOME"}
    assert len(documented) == 6


def test_the_data_directory_is_the_one_in_the_table(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text('name: large\ntasks: {a: {run: \'printf \\"%070000d\\" 1 > "$SKEP_OUTPUT"\'}}\n')
    assert terminal("skep run flow.yaml").returncode == 0
    found = {path.name for path in (tmp_path / ".data").iterdir()}
    section = REFERENCE.partition("## Data directory")[2]
    assert found <= {"record.sqlite", "record.sqlite-wal", "record.sqlite-shm", "artifacts", "engines"}
    assert {"record.sqlite", "artifacts", "engines"} <= found
    assert all(f"`{name.partition('-')[0]}" in section for name in found)

"""Every example runs as it stands, and gives what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
Command = Callable[..., Any]


def states(ended: Any) -> dict[str, str]:
    return {task["name"]: task["state"] for task in ended.document["tasks"]}


def test_every_example_is_listed_and_tested() -> None:
    here = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".yaml", ".py")}
    listed = set(re.findall(r"\]\(([\w.-]+\.(?:yaml|py))\)", (EXAMPLES / "README.md").read_text("utf-8")))
    tested = set(re.findall(r'"([\w-]+\.(?:yaml|py))"', Path(__file__).read_text("utf-8")))
    assert here == listed
    assert here <= tested


def test_hello(command: Command) -> None:
    ended = command("run", "hello.yaml")
    assert (ended.code, ended.document) == (0, "3 greetings")
    assert command("run", "hello.yaml", "--input", 'names=["you; exit 1"]').document == "1 greetings"


def test_five_steps(command: Command) -> None:
    ended = command("run", "five-steps.yaml", "--json")
    assert ended.code == 0
    assert ended.document["output"] == "deployed search after 12 tests"
    assert [task["output"] for task in ended.document["tasks"]] == [
        {"feature": "search", "requirements": ["fast", "typo-tolerant"]},
        "an index for fast and typo-tolerant search",
        "an index for fast and typo-tolerant search, implemented",
        {"passed": 12, "failed": 0},
        "deployed search after 12 tests",
    ]
    checked = command("check", "five-steps.yaml", "--json")
    assert checked.document["critical_path_ms"] == (300 + 600 + 1200 + 400 + 200) * 1000
    assert len(checked.document["critical_path"]) == 5


@pytest.mark.parametrize("pages", [["a"], ["a", "b", "c", "d", "e", "f"], []])
def test_fan_out(command: Command, pages: list[str]) -> None:
    ended = command("run", "fan-out.py", "--json", "--input", f"pages={pages}".replace("'", '"'))
    assert ended.code == 0
    assert ended.document["output"] == {"pages": len(pages), "chapters": 5 * len(pages)}
    children = [task for task in ended.document["tasks"] if task["name"].startswith("fetch[")]
    assert [task["attempts"] for task in children] == [2] * len(pages)
    assert all(task["output"].count("chapter") == 5 for task in children)


def test_fan_out_as_a_script(command: Command) -> None:
    assert command(program=("fan-out.py",)).document == "{'pages': 3, 'chapters': 15}\n"


def test_failure(command: Command) -> None:
    fine = command("run", "failure.yaml", "--json")
    assert (fine.code, fine.document["output"]) == (0, "migrate succeeded, test succeeded")
    assert [name for name, state in states(fine).items() if state == "skipped"] == ["roll_back", "tell"]

    broken = command("run", "failure.yaml", "--json", "--input", "migration=broken")
    assert (broken.code, broken.document["output"]) == (0, "migrate failed, test skipped")
    assert states(broken)["roll_back"] == "succeeded"
    assert next(task["attempts"] for task in broken.document["tasks"] if task["name"] == "migrate") == 3

    tests = command("run", "failure.yaml", "--json", "--input", "tests=broken")
    assert (tests.code, tests.document["state"], tests.document["reason"]) == (1, "failed", "task_failed")
    assert (states(tests)["tell"], states(tests)["tidy"]) == ("succeeded", "succeeded")


def test_locks(command: Command) -> None:
    lines = command("run", "locks.yaml").document
    assert len(lines) == 10
    readers, writing = 0, False
    for line in lines:
        who, what = line.split()
        if who == "read":
            assert not writing
            readers += 1 if what == "begins" else -1
        else:
            assert readers == 0
            assert writing == (what == "ends")
            writing = what == "begins"


def test_release_gate_is_green(command: Command, examples: Path, tmp_path: Path) -> None:
    before = {path for path in examples.rglob("*") if "__pycache__" not in path.parts}
    node = "here:cpu,ssd,high-memory,network;cpu=4"
    ended = command("run", "release-gate/flow.yaml", "--json", "--node", node, "--input", f"work={tmp_path / 'work'}")
    assert ended.code == 0, ended.said
    assert set(states(ended).values()) == {"succeeded"}
    report = (tmp_path / "work" / "report.md").read_text("utf-8")
    files = len(list((EXAMPLES / "release-gate" / "tally" / "tests").glob("test_*.py")))
    assert ended.document["output"]["files"] == files
    assert ended.document["output"]["passed"] >= files
    assert f"tests passed in {files} files" in report
    assert {path for path in examples.rglob("*") if "__pycache__" not in path.parts} == before


def test_release_gate_stops_what_is_broken(command: Command, examples: Path, tmp_path: Path) -> None:
    module = examples / "release-gate" / "tally" / "src" / "tally" / "stats.py"
    module.write_text(f"{module.read_text('utf-8')}\nimport os\n", "utf-8")  # unused, and not at the top
    node = "here:cpu,ssd,high-memory,network;cpu=2"
    ended = command("run", "release-gate/flow.yaml", "--json", "--node", node, "--input", f"work={tmp_path / 'work'}")
    assert (ended.code, ended.document["reason"]) == (1, "task_failed")
    found = states(ended)
    assert found["lint"] == "failed"
    assert {found[name] for name in ("build", "install", "smoke", "report")} == {"skipped"}
    assert "lint failed on here: ExitCode" in ended.said
    assert not (tmp_path / "work" / "report.md").exists()

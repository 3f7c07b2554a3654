"""The recorded workflows are imported and replayed, and the record says that no task began before those it needs had ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skep.model.run import Token
from skep.record.sql import SqlRecord

INSTANCES = sorted((Path(__file__).parents[2] / "examples" / "wfformat").glob("*.json"))
EVERYTHING = 1_000_000


def test_all_five_are_here() -> None:
    assert len(INSTANCES) == 5
    readme = (INSTANCES[0].parent / "README.md").read_text("utf-8")
    for path in INSTANCES:
        tasks = json.loads(path.read_bytes())["workflow"]["specification"]["tasks"]
        row = next(line for line in readme.splitlines() if line.startswith("|") and path.name in line)
        assert f"| {len(tasks)} |" in row


@pytest.mark.parametrize("path", INSTANCES, ids=lambda path: path.stem)
async def test_it_runs_in_order(path: Path, command: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    flow = tmp_path / "flow.yaml"
    assert command("import", "wfformat", path, "--time-scale", "0.001", "-o", flow).code == 0
    ended = command("run", flow, "--json", "--node", "wide:cpu;cpu=32;slots=32", "--quiet")
    assert ended.code == 0, ended.said
    assert {task["state"] for task in ended.document["tasks"]} == {"succeeded"}

    parents = _parents(path)
    index = {task["name"]: task["index"] for task in ended.document["tasks"]}
    assert index.keys() == parents.keys()
    began, over = await _order(data / "record.sqlite", ended.document["id"])
    assert len(began) == len(over) == len(parents)
    edges = 0
    for name, needed in parents.items():
        for parent in needed:
            edges += 1
            assert over[index[parent]] < began[index[name]], f"{name} began before {parent} had ended"
    assert edges

    times = {task["name"]: task for task in ended.document["tasks"]}
    for name, needed in parents.items():
        for parent in needed:
            assert times[name]["started_ms"] >= times[parent]["finished_ms"] - 1  # each is rounded on its own


def _parents(path: Path) -> dict[str, list[str]]:
    """What each task waited for, as the recorded workflow itself says."""
    return {task["id"]: task["parents"] for task in json.loads(path.read_bytes())["workflow"]["specification"]["tasks"]}


async def _order(file: Path, run: str) -> tuple[dict[int, Token], dict[int, Token]]:
    """By task, the numbers of the events that say that it began and that it was over."""
    record = SqlRecord(file)
    await record.open()
    try:
        events = await record.events(run, Token(0, 0), EVERYTHING)
    finally:
        await record.close()
    assert events == sorted(events, key=lambda numbered: numbered[0])
    began = {event.task: number for number, event in events if event.kind == "granted"}
    over = {task: number for number, event in events if event.kind == "succeeded" for task in event.tasks or (event.task,)}
    return began, over

"""`skep chaos`: what it takes, what it prints, how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skep.testing.chaos.faults import ALL, NEVER
from tests.cli.conftest import Skep


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--faults", "earthquake"), "there is no fault 'earthquake'"),
        (("--break", "door"), "fence, epoch, mark"),
        (("--server", "http://127.0.0.1:9", "--small"), "taken as it is"),
        (("--kill-command", "true"), "named by --server"),
    ],
)
def test_wrong_usage_ends_with_2(skep: Skep, arguments: tuple[str, ...], said: str) -> None:
    assert said in plain(skep("chaos", *arguments, code=2).stderr)


def plain(box: str) -> str:
    return " ".join(box.replace("│", " ").split())


def test_a_folder_in_use_is_left_alone(skep: Skep) -> None:
    kept = skep.file("mine/notes", "important")
    assert "is not empty" in plain(skep("chaos", "--folder", str(kept.parent), code=2).stderr)
    assert kept.read_text() == "important"


def test_the_list_names_every_fault(skep: Skep) -> None:
    out = skep("chaos", "--faults", "list").stdout
    assert [line.split()[0] for line in out.splitlines()] == list(ALL)


def test_a_fleet_that_holds_what_it_promises(skep: Skep, tmp_path: Path) -> None:
    done = skep("chaos", "--small", "--minutes", "0.15", "--seed", "1", "--faults", "worker-kill", "--json")
    card = json.loads(done.stdout)
    assert (card["lost"], card["stale_commits"], card["stuck"]) == (0, 0, 0)
    assert card["accepted"] == card["finished"] > 5
    assert card["faults"].keys() == {"worker-kill"}
    assert card.keys() >= {"duplicates", "failover_ms", "left_out", "seed"}
    assert "seed 1" in done.stderr
    folder = Path(done.stderr.partition("logs are in ")[2].split("\n")[0])
    assert not folder.exists(), "nothing is left of what went well"


def test_a_fleet_without_a_guard_is_found_out(skep: Skep, tmp_path: Path) -> None:
    place = tmp_path / "evidence"
    options = ("--small", "--break", "mark", "--minutes", "0.1", "--seed", "1", "--folder", str(place))
    process = skep.start("chaos", *options)
    out, err = process.communicate(timeout=150)  # what stands still is waited for
    assert process.returncode == 1, err
    lines = dict(line.strip().partition(" ")[::2] for line in out.splitlines())
    assert any(int(lines[name]) for name in ("lost", "stale", "stuck"))
    assert lines["evidence"].strip().startswith(str(place))
    assert {"ledger", "effects", "stories.json", "server-1.log"} <= {path.name for path in place.iterdir()}


def test_what_cannot_be_is_said() -> None:
    assert all(NEVER.values())

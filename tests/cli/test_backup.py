"""`skep backup` and `skep restore` where no server runs."""

from __future__ import annotations

import json
from typing import Any

FLOW = "name: one\ninputs: {n: 1}\ntasks:\n  hello: {run: 'echo ${{ inputs.n }}'}\n"


def test_a_backup_is_restored_to_an_empty_place(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    skep("run", "flow.yaml", "-q")
    note = skep.json("backup", "copy", "--json")
    assert (note["runs"], note["tasks"], note["path"]) == (1, 1, str(skep.folder / "copy"))
    assert "1 runs" in skep("restore", "copy", "--data", "other").stderr
    skep.home = skep.folder / "other"
    assert skep.runs() == [("one", "succeeded", "")]


def test_what_is_there_is_replaced_only_by_force_and_kept_aside(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    skep("run", "flow.yaml", "-q")
    skep("backup", "copy")
    skep("run", "flow.yaml", "-q")
    assert "already" in skep("restore", "copy", code=3).stderr
    assert len(skep.runs()) == 2
    skep("restore", "copy", "--force")
    assert len(skep.runs()) == 1
    assert list(skep.home.glob("record.sqlite.old-*"))


def test_nothing_is_written_over(skep: Any) -> None:
    skep.file("flow.yaml", FLOW)
    skep("run", "flow.yaml", "-q")
    skep.file("full/file", "mine")
    assert "not empty" in skep("backup", "full", code=3).stderr
    assert (skep.folder / "full" / "file").read_text() == "mine"


def test_nothing_to_back_up_and_no_backup_are_refused(skep: Any) -> None:
    assert "nothing to back up" in skep("backup", "copy", code=3).stderr
    skep.file("folder/file", "")
    done = skep("restore", "folder", "--json", code=3)
    assert "no whole backup" in json.loads(done.stdout)["error"]

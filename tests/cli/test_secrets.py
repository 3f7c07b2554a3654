"""Secrets of the environment: given to the tasks that ask for them, and seen nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOKEN, OTHER = "hunter2-is-a-token", "never-asked-for"
GIVEN = {"SKEP_SECRET_TOKEN": TOKEN, "SKEP_SECRET_OTHER": OTHER}

FLOWS = """
import os

from skep import context, secret, shell, task, workflow

print("at import", sorted(name for name in os.environ if "SECRET" in name))


@task
def use(token: str) -> dict[str, object]:
    print("using", token)
    context.log("logging", token)
    context.progress(1, 2, token)
    return {"length": len(token), "token": token, "environ": [name for name in os.environ if "SECRET" in name]}


@task(isolation="process")
def use_apart(token: str) -> dict[str, object]:
    print("using apart", token)
    return {"length": len(token), "token": token, "environ": [name for name in os.environ if "SECRET" in name]}


@task(on_failure="continue")
def fail(token: str) -> None:
    raise ValueError(f"refused {token}")


@workflow
def flow():
    fail(secret("TOKEN"))
    shown = shell(f"echo {secret('TOKEN')}; echo $KEY >&2; printf %s $KEY | wc -c", name="shown", env={"KEY": secret("TOKEN")})
    return {
        "shell": shown,
        "environ": shell("env", name="environ"),
        "here": use(secret("TOKEN")),
        "apart": use_apart(secret("TOKEN")),
    }


if __name__ == "__main__":
    print(flow.run())
"""


def seen_in(folder: Path) -> list[str]:
    """Files in which a secret stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "record.sqlite" for path in files)
    return [path.name for path in files for secret in (TOKEN, OTHER) if secret.encode() in path.read_bytes()]


def test_secrets_reach_who_asks_for_them_and_nothing_else(skep: Any) -> None:
    skep.file("flows.py", FLOWS)
    done = skep("run", "flows.py", "--json", **GIVEN)
    for text in (done.stdout, done.stderr):
        assert TOKEN not in text
        assert OTHER not in text
    assert "at import []" in done.stderr
    output = json.loads(done.stdout)["output"]
    assert output["shell"].splitlines() == ["***", str(len(TOKEN))]
    assert output["here"] == output["apart"] == {"length": len(TOKEN), "token": "***", "environ": []}
    assert "SKEP_TASK=environ" in output["environ"]
    assert "SKEP_SECRET" not in output["environ"]
    assert seen_in(skep.home) == []


def test_a_script_has_them_too(skep: Any) -> None:
    script = skep.file("flows.py", FLOWS)
    done = subprocess.run(
        [sys.executable, script], cwd=skep.folder, env=skep.env | GIVEN, capture_output=True, text=True, timeout=50
    )
    output = done.stdout.splitlines()[-1]
    assert str({"length": len(TOKEN), "token": "***", "environ": []}) in output
    assert "SKEP_TASK=environ" in output
    assert "SKEP_SECRET_TOKEN=" not in output
    assert seen_in(skep.home) == []


def test_one_that_is_missing_is_named_with_its_variable(skep: Any) -> None:
    skep.file("flow.yaml", "name: one\ntasks:\n  a: {run: 'echo ${{ secrets.TOKEN }}'}\n")
    done = skep("run", "flow.yaml", code=1, SKEP_SECRET_OTHER=OTHER)
    assert "this node has no secret 'TOKEN'; set SKEP_SECRET_TOKEN" in done.stderr


def test_one_that_is_no_text_is_refused(skep: Any) -> None:
    skep.file("flow.yaml", "name: one\ntasks:\n  a: {run: 'true'}\n")
    done = skep("run", "flow.yaml", code=3, SKEP_SECRET_KEY="x\udcff")
    assert "SKEP_SECRET_KEY holds bytes that are no UTF-8" in done.stderr

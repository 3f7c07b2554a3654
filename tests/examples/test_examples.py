"""Every example runs as it stands, and gives what it says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
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


def test_specialised(command: Command) -> None:
    """Its nodes are those of the demo; without them it runs as well."""
    nodes = ("builder:cpu,ssd;cpu=4;slots=8", "tester:cpu;cpu=4;slots=8", "gateway:cpu,network;cpu=2;slots=4")
    options = [word for node in nodes for word in ("--node", node)]
    tasks = {task["name"]: task["node"] for task in command("run", "specialised.yaml", "--json", *options).document["tasks"]}
    assert [tasks[f"test[{at}]"] for at in range(6)] == ["tester"] * 4 + ["builder"] * 2
    assert (tasks["pack"], tasks["ship"]) == ("builder", "gateway")
    assert command("run", "specialised.yaml").document["ship"] == "shipped"


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


@pytest.fixture
def pages() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A web server that has every page but `/gone`, and what was posted to it: (who, what)."""
    posted: list[tuple[str, Any]] = []

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(404 if self.path == "/gone" else 200)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            posted.append((self.headers["authorization"], json.loads(body)))
            self.answer(204)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()
        thread.join()


def test_http_check(command: Command, pages: tuple[str, list[tuple[str, Any]]]) -> None:
    url, posted = pages
    hook = ("--input", f"hook={url}/hook")
    fine = command("run", "http-check.yaml", "--input", f'urls=["{url}/a", "{url}/b"]', *hook)
    assert (fine.code, fine.document, posted) == (0, "2 pages are there", [])

    broken = ("run", "http-check.yaml", "--json", "--input", f'urls=["{url}/a", "{url}/gone"]', *hook)
    ended = command(*broken, environment={"SKEP_SECRET_HOOK_TOKEN": "s3cret"})
    assert (ended.code, states(ended)["check[1]"], states(ended)["tell"]) == (1, "failed", "succeeded")
    assert posted == [("Bearer s3cret", {"text": f"A page is gone: GET {url}/gone answered 404 Not Found, expected 2xx"})]


def test_approval(command: Command, server: None) -> None:
    def submitted() -> str:
        run: str = command("submit", "approval.yaml").document.strip()
        until(lambda: [wait["run"] for wait in command("approvals", "--json").document] == [run])
        return run

    run = submitted()
    assert command("approve", run, "ask").code == 3  # without what the form asks for
    assert command("approve", run, "ask", "--field", "channel=stable", "--by", "Ada").code == 0
    assert output_of(command, run) == "shipped wheel-1.2 to stable for Ada"

    run = submitted()
    assert command("reject", run, "ask", "--by", "Grace", "--comment", "too early").code == 0
    assert output_of(command, run) == "put back, rejected by Grace: too early"


def output_of(command: Command, run: str) -> Any:
    """What the run gave, once it has ended."""
    until(lambda: command("show", run, "--json").document["state"] == "succeeded")
    return command("show", run, "--json").document["output"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_fleet_to_simulate(command: Command) -> None:
    policies = ("--policy", "hybrid", "--policy", "round-robin")
    ended = command("simulate", "fleet-heterogeneous.yaml", "five-steps.yaml", *policies, "--seed", "1", "--json")
    assert ended.code == 0, ended.said
    assert {"hybrid", "round-robin"} <= {row["policy"] for row in ended.document["results"]}


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

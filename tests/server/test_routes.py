"""HTTP as a program meets it: a real server, its socket, and requests right and wrong."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from skep.client import API, Client, Filter, UnreachableError
from skep.config import socket_path
from skep.errors import NotFoundError, RefusedError, SpecError, WrongStateError
from skep.model.authoring import build_workflow
from skep.model.spec import WorkflowSpec
from skep.model.views import RunSummary
from skep.server.specs import LARGE
from skep.testing.up import Up


def flow(name: str = "w", **tasks: Any) -> WorkflowSpec:
    return build_workflow({"name": name, "tasks": tasks})


ECHO = {"run": "echo hello; echo trouble >&2"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("routes") / "home", "--node", "n:cpu;slots=8;cpu=8") as server:
        server.start()
        yield server


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with Client(up.home) as made:
        yield made


class Answer(NamedTuple):
    status: int
    document: Any


@pytest.fixture
def raw(up: Up) -> Any:
    """Sends a request as it stands."""

    def send(method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(socket_path(up.home)))
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return Answer(response.status, json.loads(data) if data else None)

    return send


# -- runs


def test_a_run_from_words_to_output(client: Client) -> None:
    accepted = client.runs.submit(flow(a=ECHO), labels={"team": "x"}, priority=8)
    assert (accepted.state, accepted.workflow, accepted.priority, accepted.labels) == ("queued", "w", 8, {"team": "x"})
    ended = client.runs.wait(accepted.id, 20)
    assert (ended.state, ended.counts, ended.tasks) == ("succeeded", {"succeeded": 1}, 1)
    view = client.runs.view(accepted.id)
    assert view.output == {"a": "hello"}
    assert client.tasks.get(accepted.id, "a").output == "hello"
    assert client.runs.definition(accepted.id) == flow(a=ECHO)


def test_workflows_as_people_write_them(raw: Any) -> None:
    sent = json.dumps({"workflow": {"name": "w", "tasks": {"a": {"run": "echo hi"}}}})
    status, document = raw("POST", f"{API}/workflows?wait=10", sent)
    assert (status, document["state"]) == (201, "succeeded")


def test_the_same_id_again_is_the_same_run(client: Client) -> None:
    first = client.runs.submit(flow(a=ECHO))
    assert client.runs.submit(flow(a=ECHO), run_id=first.id).id == first.id
    with pytest.raises(RefusedError, match="another definition"):
        client.runs.submit(flow(b=ECHO), run_id=first.id)


def test_a_unique_run_is_answered_while_it_goes_on(client: Client) -> None:
    asks = flow(a={"approval": "?"})
    first = client.runs.submit(asks, unique="k")
    assert not first.known
    again = client.runs.submit(flow(a=ECHO), unique="k")
    assert (again.id, again.workflow, again.known) == (first.id, asks.name, True)
    assert client.submit(flow(a=ECHO), unique="k").id == first.id
    assert client.runs.submit(flow(a=ECHO), unique="k", wait_s=0.1).known
    assert client.runs.submit(asks, run_id=first.id, unique="k").known is False, "it was sent again, which is no news"
    client.runs.cancel(first.id)
    client.runs.wait(first.id, 10)
    assert client.runs.submit(flow(a=ECHO), unique="k").id != first.id
    with pytest.raises(SpecError, match="unique: comes to 0 bytes"):
        client.runs.submit(flow(a=ECHO), unique="")


def test_the_same_key_again_is_the_same_run(client: Client, raw: Any) -> None:
    run = client.runs.submit(flow(a=ECHO), idempotency_key="k1")
    assert client.runs.submit(flow(a=ECHO), idempotency_key="k1").id == run.id
    with pytest.raises(RefusedError, match="another body"):
        client.runs.submit(flow(a={"run": "false"}), idempotency_key="k1")
    sent = json.dumps({"workflow": {"name": "w", "tasks": {"a": ECHO}}})
    key = {"Idempotency-Key": "k2"}
    assert (
        raw("POST", f"{API}/workflows", sent, key).document["id"] == raw("POST", f"{API}/workflows", sent, key).document["id"]
    )


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ("{", "", "JSON"),
        ("[]", "", "object"),
        ("{}", "", "exactly one"),
        ('{"workflow": {"name": "w", "tasks": {"a": {"run": "x"}}}, "definition": "w"}', "", "exactly one"),
        ('{"workflow": {"name": "w", "tasks": {"a": {"run": "x", "retires": 1}}}}', "tasks.a.retires", "retries"),
        ('{"workflow": {"name": "w", "tasks": {"a": {"run": "x", "needs": ["b"]}}}}', "tasks.a.needs", "no task 'b'"),
        ('{"spec": {"name": "w", "tasks": [{"name": "a", "executor": "run", "call": "x", "priority": 99}]}}', "spec", "10"),
        ('{"spec": {"name": "w", "tasks": [{"name": "a", "executor": "rum", "call": "x"}]}}', "tasks.a", ""),
        ('{"definition": "w", "priority": "high"}', "priority", "int"),
        ('{"definition": "w", "priority": 11}', "priority", "10"),
        ('{"definition": "w", "in_ms": -1}', "in_ms", "milliseconds"),
        ('{"definition": "w", "id": "../../etc"}', "id", "UUID"),
        ('{"definition": "w", "colour": 1}', "", "colour"),
        ('{"definition": "w", "namespace": "a/b"}', "namespace", "a/b"),
        ('{"definition": "w", "labels": {"a": "\\u0000"}}', "labels", ""),
        ('{"workflow": {"name": "w", "tasks": {"a": {"run": "x"}}}, "inputs": {"n": 1}}', "inputs.n", "no such input"),
    ],
)
def test_a_wrong_submission_names_its_field(raw: Any, client: Client, body: str, path: str, message: str) -> None:
    before = [run.id for run in client.runs.list().runs]
    status, document = raw("POST", f"{API}/workflows", body)
    assert status == 422, document
    assert document["code"] == "SpecError"
    assert any(problem["path"].startswith(path) and message in problem["message"] for problem in document["problems"]), document
    assert [run.id for run in client.runs.list().runs] == before, "nothing is half-submitted"


def test_unknown_things_are_not_found(raw: Any, client: Client) -> None:
    for path in ("/nothing", f"{API}/workflows/zzz", f"{API}/definitions/zzz", f"{API}/schedules/zzz"):
        assert raw("GET", path).status == 404, path
    run = client.runs.submit(flow(a=ECHO), wait_s=10).id
    with pytest.raises(NotFoundError, match="it has a"):
        client.tasks.get(run, "b")
    assert raw("POST", f"{API}/workflows/{run}/explode", "{}").status == 404


def test_a_run_is_found_by_the_beginning_of_its_id(client: Client) -> None:
    run = client.runs.submit(flow(a=ECHO), wait_s=10).id
    assert client.runs.get(run[:30]).id == run
    assert client.runs.get("last").id


@pytest.mark.parametrize("query", ["state=odd", "limit=x", "limit=-1", "cursor=zzz", "since_ms=1e9"])
def test_a_wrong_query_is_refused(raw: Any, query: str) -> None:
    status, document = raw("GET", f"{API}/workflows?{query}")
    assert status == 422, document
    assert query.split("=")[0] in document["detail"]


def test_lists_are_filtered_and_paged(client: Client) -> None:
    runs = [client.runs.submit(flow("listed", a=ECHO), labels={"page": str(at % 2)}, wait_s=10).id for at in range(5)]
    found = client.runs.list(Filter(workflow="listed", label=["page=0"]), limit=2)
    rest = client.runs.list(Filter(workflow="listed", label=["page=0"]), limit=2, cursor=found.next)
    assert [run.id for run in (*found.runs, *rest.runs)] == [runs[4], runs[2], runs[0]]
    assert rest.next is None
    assert not client.runs.list(Filter(workflow="listed", state=["failed"])).runs


# -- tasks


def test_tasks_are_paged_with_those_that_have_not_begun(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = {"run": f"until test -e {go}; do sleep 0.05; done"}
    each = {"run": "echo ${{ item }}", "map": [1, 2, 3], "needs": ["first"]}
    run = client.runs.submit(flow(first=wait, each=each, last={"run": "echo", "needs": ["each"]})).id
    _until(lambda: client.runs.tasks(run, state=["running"]).tasks)
    names = [task.name for task in client.runs.tasks(run).tasks]
    assert names == ["first", "each", "last"]
    assert [task.name for task in client.runs.tasks(run, state=["waiting"]).tasks] == ["each", "last"]
    go.touch()
    client.runs.wait(run, 20)
    page = client.runs.tasks(run, limit=4)
    rest = client.runs.tasks(run, limit=4, cursor=page.next)
    assert [task.name for task in (*page.tasks, *rest.tasks)] == ["first", "each", "last", "each[0]", "each[1]", "each[2]"]
    assert [task.name for task in client.runs.tasks(run, search="each[").tasks] == ["each[0]", "each[1]", "each[2]"]
    assert client.tasks.get(run, "each[1]").output == "2"
    with pytest.raises(RefusedError, match="expected one of"):
        client.runs.tasks(run, state=["odd"])


def test_a_decision_is_made_once(client: Client, raw: Any) -> None:
    run = client.runs.submit(flow(ask={"approval": "Go?"}, after={"run": "echo ${{ tasks.ask.output.by }}"})).id
    _until(lambda: client.tasks.waits(run=run))
    (wait,) = client.tasks.waits(run=run)
    assert (wait.task, wait.kind, wait.message) == ("ask", "approval", "Go?")
    said = json.dumps({"id": "01a20ffa-b29c-7c02-afad-f9421f94aa4d", "by": "ada"})
    for _ in range(2):  # as a client does that got no answer
        assert raw("POST", f"{API}/workflows/{run}/tasks/ask/approve", said).status == 200
    with pytest.raises(WrongStateError, match="ada"):
        client.tasks.approve(run, "ask", by="ada")
    with pytest.raises(WrongStateError, match="ada"):
        client.tasks.reject(run, "ask", by="grace")
    assert client.runs.wait(run, 20).state == "succeeded"
    assert client.runs.view(run).output == {"after": "ada"}


def test_a_rejection_fails_the_task(client: Client) -> None:
    run = client.runs.submit(flow(ask={"approval": "Go?"}, after={"run": "echo", "needs": ["ask"]})).id
    _until(lambda: client.tasks.waits(run=run))
    client.tasks.reject(run, "ask", by="ada", comment="not today")
    assert client.runs.wait(run, 20).state == "failed"
    error = client.tasks.get(run, "ask").error
    assert (error["type"], "not today" in error["message"]) == ("Rejected", True)


def test_an_event_goes_to_who_waits_for_it(client: Client) -> None:
    run = client.runs.submit(flow(hear={"wait_for": {"event": "ready", "key": "k"}})).id
    _until(lambda: client.tasks.waits(run=run))
    client.events.send("ready", "other", 1)
    client.events.send("ready", "k", {"n": 2})
    assert client.runs.wait(run, 20).state == "succeeded"
    assert client.tasks.get(run, "hear").output == {"n": 2}


# -- streams


def test_events_go_on_where_one_left_off(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = client.runs.submit(flow(a={"run": f"until test -e {go}; do sleep 0.05; done"}, b={"run": "true", "needs": ["a"]})).id
    stream = client.runs.events(run, follow=True)
    seen = [next(stream)]
    while seen[-1].event.kind != "granted":
        seen.append(next(stream))
    stream.close()
    go.touch()
    last = seen[-1]
    rest = list(client.runs.events(run, after=(last.epoch, last.event.n), follow=True))
    assert [told.event.kind for told in rest][-1] == "ended"
    numbers = [told.event.n for told in (*seen, *rest)]
    assert numbers == sorted(set(numbers))
    assert numbers == [told.event.n for told in client.runs.events(run)]


def test_logs_are_followed_to_the_end(client: Client) -> None:
    row = {"run": "echo ${{ item }}", "map": ["x", "y"]}
    run = client.runs.submit(flow(a=ECHO, each=row)).id
    lines = list(client.runs.logs(run, follow=True))
    assert sorted((line.task, line.stream, line.text) for line in lines) == [
        ("a", "err", "trouble\n"),
        ("a", "out", "hello\n"),
        ("each[0]", "out", "x\n"),
        ("each[1]", "out", "y\n"),
    ]
    assert {line.task for line in client.runs.logs(run, task="each")} == {"each[0]", "each[1]"}
    after = lines[1].position
    assert [line.position for line in client.runs.logs(run, after=after)] == [line.position for line in lines[2:]]
    with pytest.raises(NotFoundError):
        list(client.runs.logs(run, task="nobody"))
    with pytest.raises(NotFoundError):
        list(client.runs.logs(run, task=f"each[{'9' * 5_000}]"))


# -- commands to many


def test_a_command_to_many_needs_a_filter(raw: Any, client: Client, tmp_path: Path) -> None:
    assert raw("POST", f"{API}/workflows/cancel", "{}").status == 422
    hold = flow("held", ask={"approval": "?"})
    runs = {client.runs.submit(hold, labels={"many": "1"}).id for _ in range(3)}
    client.runs.submit(hold, labels={"many": "2"})
    done = client.runs.bulk("cancel", Filter(label=["many=1"]))
    assert set(done.done) == runs
    assert {client.runs.wait(run, 20).state for run in runs} == {"cancelled"}
    assert not client.runs.bulk("cancel", Filter(label=["many=1"])).done
    client.runs.bulk("cancel", Filter(workflow="held"))


def test_a_large_workflow_is_taken(client: Client) -> None:
    """It is worked on beside what else is asked."""
    tasks = {f"t{at}": {"run": "true", "when": "${{ inputs.on }}"} for at in range(8_000)}
    spec = build_workflow({"name": "large", "inputs": {"on": False}, "tasks": tasks})
    assert len(spec.encode()) > LARGE
    assert client.runs.submit(spec, wait_s=20).counts == {"skipped": 8_000}
    wrong = build_workflow({"name": "large", "tasks": tasks})
    with pytest.raises(SpecError, match="no input 'on'"):
        client.runs.submit(wrong)


# -- definitions, schedules


def test_definitions_have_versions(client: Client) -> None:
    first = client.definitions.put(flow("stored", a={"run": "echo 1"}), "one")
    assert client.definitions.put(flow("stored", a={"run": "echo 1"})).version == first.version
    second = client.definitions.put(flow("stored", a={"run": "echo 2"}))
    assert (first.version, second.version) == (1, 2)
    assert [view.version for view in client.definitions.list("stored")] == [2, 1]
    assert client.definitions.get("stored@1").source["tasks"] == {"a": {"run": "echo 1"}}
    assert client.runs.view(client.runs.submit("stored", wait_s=10).id).output == {"a": "2"}
    assert client.runs.view(client.runs.submit("stored@1", wait_s=10).id).output == {"a": "1"}
    with pytest.raises(NotFoundError):
        client.runs.submit("stored@9")
    for odd in ("stored@x", f"stored@{'9' * 5_000}"):
        with pytest.raises(RefusedError, match="name@version"):
            client.runs.submit(odd)
    assert client.definitions.remove("stored") == 2
    with pytest.raises(NotFoundError):
        client.definitions.get("stored")


def test_schedules_fire(client: Client, tmp_path: Path) -> None:
    made = client.schedules.put("often", {"every": "1s", "spec": flow("ticked", a={"run": "pwd"}), "base": str(tmp_path)})
    assert made.next_ms is not None
    _until(lambda: client.runs.list(Filter(schedule="often", state=["succeeded"])).runs)
    assert client.schedules.pause("often").paused
    fired = client.schedules.fire("often")
    assert client.runs.wait(fired.id, 20).state == "succeeded"
    assert client.runs.view(fired.id).output == {"a": str(tmp_path)}
    with pytest.raises(SpecError, match="UUID"):
        client.ask(RunSummary, "POST", f"{API}/schedules/often/fire", body={"id": "last"})
    assert client.schedules.remove("often")
    with pytest.raises(SpecError, match="never"):
        client.schedules.put("no", {"cron": "0 0 30 2 *", "spec": flow(a=ECHO)})


# -- insight


def test_status_and_health(client: Client, up: Up, raw: Any) -> None:
    assert raw("GET", "/health") == (200, {"status": "ok", "trouble": None})
    _until(client.nodes.list)
    status = client.insight.status()
    assert (status.state, status.data, status.url) == ("ready", str(up.home), None)
    assert client.queue.stats().slots == 8
    (node,) = client.nodes.list()
    assert node.beat_ms is not None


def test_a_backup_while_work_goes_on(client: Client, tmp_path: Path) -> None:
    client.insight.backup(tmp_path / "copy")
    assert (tmp_path / "copy" / "record.sqlite").exists()
    with pytest.raises(SpecError, match="absolute"):
        client.ask(dict[str, Any], "POST", f"{API}/backup", body={"target": "here"})


def test_nobody_answers(tmp_path: Path) -> None:
    with Client(tmp_path) as lonely, pytest.raises(UnreachableError, match="no server runs"):
        lonely.insight.status()


def _until(holds: Any) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

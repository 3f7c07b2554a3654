"""Requests, questions, child runs and waits in Python: the same tasks as in YAML."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from skep import approval, http, item, shell, uses, wait_for, workflow
from skep.errors import SkepError, SpecError
from skep.model import calls, keys
from skep.model.spec import TaskSpec
from skep.sdk.task import AskOptions, HttpOptions, ParkedOptions
from skep.sdk.yaml import dump, load_text

EVERY = {field.key for field in keys.TASK.fields} - {*keys.EXECUTORS, "with", "env", "cwd", "isolation"}
HOLDING = {"requires", "resources", "placement", "locks", "concurrency", "rate"}


@workflow
def build(target: str, fast: bool = False) -> Any:
    """Builds one target."""
    return shell(f"make {target}")


def same(body: Any, text: str) -> None:
    """The workflow of this body is the one in the YAML."""
    made = workflow(body).spec
    expected = load_text(text)
    assert dump(made) == dump(expected)
    assert made == expected


def test_every_option() -> None:
    def names(options: Any) -> set[str]:
        return {*typing.get_type_hints(options)}

    assert names(HttpOptions) == EVERY
    assert names(ParkedOptions) == EVERY - HOLDING
    assert names(AskOptions) == EVERY - HOLDING - {"timeout", "deadline"}
    for function, key in ((http, "http"), (approval, "approval"), (wait_for, "wait_for")):
        known = {field.key for field in calls.TABLES[key].fields}
        assert known <= typing.get_type_hints(function).keys()


def test_requests() -> None:
    def flow(repo: str) -> Any:
        """Asks."""
        page = http(f"https://x.org/{repo}", headers={"X-Repo": repo}, query={"a": [1, repo]}, expect=[200, 404])
        return http(
            "https://x.org/${{ inputs.repo }}",
            method="POST",
            json={"page": page.body, "plain": "${{ not one }}"},
            max_bytes="1MiB",
            follow_redirects=False,
            name="send",
            retries=0,
            timeout="5s",
            locks="x",
            when=page.status == 200,
        )

    same(
        flow,
        """
        name: flow
        description: Asks.
        required: [repo]
        tasks:
          http:
            http: {url: "https://x.org/${{ inputs.repo }}", headers: {X-Repo: "${{ inputs.repo }}"},
                   query: {a: [1, "${{ inputs.repo }}"]}, expect: [200, 404]}
          send:
            http: {url: "https://x.org/${{ inputs.repo }}", method: POST, max_bytes: 1MiB, follow_redirects: false,
                   json: {page: "${{ tasks.http.output.body }}", plain: "$${{ not one }}"}}
            retries: 0
            timeout: 5s
            locks: x
            when: "${{ (tasks.http.output.status == 200) }}"
        output: "${{ tasks.send.output }}"
        """,
    )


def test_questions_and_events() -> None:
    def flow(sha: str) -> Any:
        """Asks."""
        asked = approval(f"Ship {sha}?", form={"type": "object"}, deadline="2d", default="reject", name="ask")
        done = wait_for("deploy", key=sha, needs=asked, timeout="1h")
        approval("All well?", needs=done, map=["a", "b"], on_failure="continue")
        return wait_for(f"tested-{sha}")

    same(
        flow,
        """
        name: flow
        description: Asks.
        required: [sha]
        tasks:
          ask: {approval: {message: "Ship ${{ inputs.sha }}?", form: {type: object}, deadline: 2d, default: reject}}
          wait_for: {wait_for: {event: deploy, key: "${{ inputs.sha }}"}, needs: [ask], timeout: 1h}
          approval: {approval: All well?, needs: [wait_for], map: [a, b], on_failure: continue}
          wait_for_2: {wait_for: "tested-${{ inputs.sha }}"}
        output: "${{ tasks.wait_for_2.output }}"
        """,
    )


def test_child_runs() -> None:
    def flow(targets: list[str]) -> Any:
        """Builds."""
        first = build("docs")
        build.options(name="second", needs=first, timeout="1h")("wheel", fast=True)
        build.map(targets, fast=item == "wheel")
        uses("test@3", {"target": first}, needs=first)
        uses("${{ inputs.targets[0] }}")
        return uses(build, {"target": "all"}, name="all")

    inner = """{workflow: {name: build, description: Builds one target., inputs: {fast: false}, required: [target],
                 tasks: {shell: {run: "make ${{ inputs.target }}"}}, output: "${{ tasks.shell.output }}"}}"""
    same(
        flow,
        f"""
        name: flow
        description: Builds.
        required: [targets]
        tasks:
          build: {{uses: {inner}, with: {{target: docs}}}}
          second: {{uses: {inner}, with: {{target: wheel, fast: true}}, needs: [build], timeout: 1h}}
          build_2:
            uses: {inner}
            with: {{target: "${{{{ item }}}}", fast: "${{{{ (item == 'wheel') }}}}"}}
            map: "${{{{ inputs.targets }}}}"
          test: {{uses: test@3, with: {{target: "${{{{ tasks.build.output }}}}"}}, needs: [build]}}
          uses: {{uses: "${{{{ inputs.targets[0] }}}}"}}
          all: {{uses: {inner}, with: {{target: all}}}}
        output: "${{{{ tasks.all.output }}}}"
        """,
    )


@workflow
def endless() -> Any:
    return endless()


@workflow
def ping() -> Any:
    return pong()


@workflow
def pong() -> Any:
    return ping()


@workflow
def wrong() -> Any:
    return shell("true", retires=1)  # type: ignore[call-arg]


def test_workflows_that_use_themselves_are_refused() -> None:
    with pytest.raises(SpecError, match="endless uses itself, so it would never end"):
        _ = endless.spec
    with pytest.raises(SpecError, match="ping uses itself"):
        _ = ping.spec
    with pytest.raises(SpecError, match="pong uses itself"):
        _ = pong.spec


def test_a_mistake_in_a_child_is_told_as_its_own() -> None:
    def flow() -> Any:
        return wrong()

    with pytest.raises(SpecError, match=r":wrong: tasks\.shell\.retires: "):
        _ = workflow(flow).spec


def test_inputs_that_do_not_fit_are_refused() -> None:
    def flow() -> Any:
        return build(3, no=1)  # type: ignore[call-arg, arg-type]

    with pytest.raises(TypeError, match="'no'"):
        _ = workflow(flow).spec


@pytest.mark.parametrize(
    "call", [lambda: http("http://x"), lambda: approval("?"), lambda: uses("a"), lambda: wait_for("e"), lambda: build("x")]
)
def test_outside_of_a_workflow_they_are_refused(call: Any) -> None:
    with pytest.raises(SkepError, match="@workflow"):
        call()


def test_a_child_in_another_namespace_is_refused() -> None:
    @workflow(namespace="team")
    def inner() -> Any:
        return shell("true")

    def flow() -> Any:
        return inner()

    with pytest.raises(SpecError, match="expected 'default', that of the workflow around it"):
        _ = workflow(flow).spec
    (task,) = workflow(namespace="team")(flow).spec.tasks
    assert isinstance(task, TaskSpec)

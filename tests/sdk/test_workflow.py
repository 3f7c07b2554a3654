"""Workflows in Python, and that they can say all that YAML can."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import skep
from skep import item, secret, shell, task, workflow
from skep.errors import SkepError, SpecError
from skep.model.spec import WorkflowSpec
from skep.sdk import workflow as workflow_module
from skep.sdk.yaml import load_text


@task
def fetch(url: str) -> str:
    return url


@task(retries={"limit": 2, "delay": "5s", "only": ["OSError"]}, timeout="5m", requires=["network"], isolation="process")
def summarise(pages: list[str], title: str = "") -> dict[str, Any]:
    return {"title": title, "pages": pages}


@workflow
def report(urls: list[str], title: str = "News") -> Any:
    """Pages in short."""
    return summarise(fetch.map(urls), title=title)


def same(function: Any, text: str) -> None:
    """Both forms build the same workflow; `FETCH` and `SUMMARISE` stand for the functions."""
    text = text.replace("FETCH", fetch.reference).replace("SUMMARISE", summarise.reference)
    assert function.spec == load_text(text)


def test_the_example_of_the_design() -> None:
    same(
        report,
        """
        name: report
        description: Pages in short.
        required: [urls]
        inputs: {title: News}
        tasks:
          fetch:
            python: FETCH
            map: ${{ inputs.urls }}
            with: {url: "${{ item }}"}
          summarise:
            python: SUMMARISE
            with:
              pages: ${{ tasks.fetch.output }}
              title: ${{ inputs.title }}
            retries: {limit: 2, delay: 5s, only: [OSError]}
            timeout: 5m
            requires: network
            isolation: process
        output: ${{ tasks.summarise.output }}
        """,
    )


def test_every_option_of_a_task() -> None:
    @workflow
    def every(x: Any) -> None:
        first = shell("one")
        tidy = shell("tidy", name="tidy")
        shell(
            f"two {x} {item}",
            name="two",
            env={"X": x, "Y": "1"},
            cwd=x.dir,
            needs=[first],
            map=x.list,
            max_parallel=3,
            when=first.ok == True,  # noqa: E712
            retries=1,
            timeout=90,
            deadline="1h",
            priority="high",
            type="testing",
            requires=["gpu", "ssd"],
            resources={"cpu": 0.5, "memory": "1GiB", "vram": "8GB"},
            locks=["a", {"name": f"b-{x}", "shared": True}],
            labels={"team": "a"},
            estimated_duration="10s",
            on_failure={"run": tidy},
        )
        shell(["three", x], on_failure="continue", when="always()")

    same(
        every,
        """
        name: every
        required: [x]
        tasks:
          shell: {run: one}
          tidy: {run: tidy}
          two:
            run: two ${{ inputs.x }} ${{ item }}
            env: {X: "${{ inputs.x }}", Y: 1}
            cwd: ${{ inputs.x.dir }}
            needs: shell
            map: ${{ inputs.x.list }}
            max_parallel: 3
            when: ${{ (tasks.shell.output.ok == true) }}
            retries: 1
            timeout: 1m30s
            deadline: 1h
            priority: 8
            type: testing
            requires: [gpu, ssd]
            resources: {cpu: 0.5, memory: 1GiB, vram: 8GB}
            locks: [a, {name: "b-${{ inputs.x }}", shared: true}]
            labels: {team: a}
            estimated_duration: 10s
            on_failure: {run: tidy}
          shell_2:
            run: [three, "${{ inputs.x }}"]
            on_failure: continue
            when: always()
        """,
    )


def test_every_option_of_a_workflow() -> None:
    @workflow(
        name="flow-1",
        description="about it",
        timeout="10m",
        priority=7,
        labels={"a": "b"},
        namespace="n",
        defaults={"timeout": "1m", "env": {"A": "1"}, "isolation": "process"},
    )
    def body(a: int = 1, b: Any = None) -> Any:
        return {"all": [shell("x", env={"B": "2"}), fetch("${{ not an expression }}")], "sum": a + 1, "b": b}

    same(
        body,
        """
        name: flow-1
        description: about it
        inputs: {a: 1, b: null}
        tasks:
          shell: {run: x, env: {B: "2"}}
          fetch: {python: "FETCH", with: {url: "$${{ not an expression }}"}}
        output:
          all: ["${{ tasks.shell.output }}", "${{ tasks.fetch.output }}"]
          sum: ${{ (inputs.a + 1) }}
          b: ${{ inputs.b }}
        timeout: 10m
        priority: 7
        labels: {a: b}
        namespace: n
        defaults: {timeout: 1m, env: {A: 1}, isolation: process}
        """,
    )


# -- when it is built


def test_secrets_and_conditions_over_refs() -> None:
    @workflow
    def publish(pages: list[str]) -> None:
        fetched = fetch(secret("URL"))
        shell(f"upload --key {secret('KEY')}", name="upload", env={"TOKEN": secret("A-1")}, when=f"len({pages}) > {fetched}")

    same(
        publish,
        """
        name: publish
        required: [pages]
        tasks:
          fetch: {python: FETCH, with: {url: "${{ secrets.URL }}"}}
          upload:
            run: upload --key ${{ secrets.KEY }}
            env: {TOKEN: "${{ secrets['A-1'] }}"}
            when: len(${{ inputs.pages }}) > ${{ tasks.fetch.output }}
        """,
    )


def test_it_is_built_once_and_only_when_asked() -> None:
    built: list[int] = []

    @workflow
    def body() -> None:
        built.append(1)
        shell("x")

    assert not built
    assert body.spec is body.spec
    assert built == [1]


def test_building_one_inside_of_another_does_not_mix_them() -> None:
    @workflow
    def outer() -> None:
        shell("a")
        assert report.spec.name == "report"
        shell("b")

    assert [one.call for one in outer.spec.tasks] == ["a", "b"]


def test_a_failing_body_leaves_nothing_behind() -> None:
    @workflow
    def broken() -> None:
        shell("x")
        raise KeyError("oops")

    with pytest.raises(KeyError):
        _ = broken.spec
    assert fetch("u") == "u", "outside of a workflow again"


def test_the_graph_is_checked() -> None:
    @workflow
    def circle() -> None:
        shell("a", name="a", needs=["b"])
        shell("b", name="b", needs=["a"])

    with pytest.raises(SpecError, match=r"circle: tasks: tasks need each other in a cycle"):
        _ = circle.spec


def test_problems_name_the_workflow_and_the_field() -> None:
    @workflow
    def wrong() -> None:
        shell("x", retries="many")  # type: ignore[arg-type]

    with pytest.raises(SpecError, match=r"wrong: tasks\.shell\.retries: found 'many'"):
        _ = wrong.spec


def star(*x: Any) -> None: ...


async def coroutine() -> None: ...


def empty() -> None: ...


@pytest.mark.parametrize(
    ("body", "message"),
    [(star, "expected plain parameters"), (coroutine, "expected a plain function"), (empty, "expected at least one task")],
)
def test_bodies_that_are_refused(body: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _ = workflow(body).spec


def test_a_workflow_is_run_and_not_called() -> None:
    with pytest.raises(SkepError, match=r"run it with report\.run\(…\)"):
        report(["a"])


def test_run_hands_over_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[WorkflowSpec, Any]] = []

    def run_workflow(spec: WorkflowSpec, inputs: Any) -> str:
        seen.append((spec, inputs))
        return "done"

    monkeypatch.setattr(workflow_module, "run_workflow", run_workflow)
    assert report.run(["a"], title="t") == "done"
    assert report.run(urls=["b"]) == "done"
    assert seen == [(report.spec, {"urls": ["a"], "title": "t"}), (report.spec, {"urls": ["b"]})]
    with pytest.raises(TypeError, match="missing a required argument: 'urls'"):
        report.run()  # type: ignore[call-arg]


# -- the package


def test_everything_exported_is_there() -> None:
    assert {name for name in skep.__all__ if getattr(skep, name, None) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = skep.nothing
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    assert f'version = "{skep.__version__}"' in pyproject


def test_importing_skep_loads_nothing_else() -> None:
    code = "import sys, skep; print(*(name for name in sys.modules if name.startswith('skep.') or name in ('yaml', 'msgspec')))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, text=True, check=True, capture_output=True
    )
    assert done.stdout.strip() == "skep.version"

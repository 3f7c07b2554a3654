"""Tasks in Python: references, plain calls, options, what becomes of arguments, and what is refused."""

import asyncio
import subprocess
import sys
import typing
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest

from skep import index, item, shell, task, workflow
from skep.errors import SkepError, SpecError
from skep.model import keys
from skep.model.spec import RetryPolicy, TaskSpec
from skep.node.functions import find_function
from skep.sdk.ref import Ref, input_ref, task_ref, template_data, value_data
from skep.sdk.task import CallOptions, FunctionOptions, ShellOptions


@task
def fetch(url: str, depth: int = 1) -> str:
    """Gets a page."""
    return f"{url}:{depth}"


@task(retries=2, timeout=timedelta(minutes=5), requires=["network"], max_parallel=4, type="research")
def parse(page: str) -> dict[str, Any]:
    return {"page": page}


@task
async def slow(url: str) -> str:
    return url.upper()


@task
def collect(**parts: Any) -> dict[str, Any]:
    return parts


@task
def tick() -> None: ...


def tasks_of(body: Any, **options: Any) -> dict[str, TaskSpec]:
    return {one.name: one for one in workflow(**options)(body).spec.tasks}


# -- a task as a function


def test_a_plain_call_outside_of_a_workflow() -> None:
    assert fetch("u", depth=2) == "u:2"
    assert fetch.__name__ == "fetch"
    assert fetch.__doc__ == "Gets a page."
    assert asyncio.run(slow.function("a")) == "A"


def test_a_node_finds_the_function() -> None:
    assert fetch.reference.endswith(":fetch")
    assert find_function(fetch.reference) is fetch.function


def test_references_of_scripts_and_of_packages(tmp_path: Path) -> None:
    body = "from skep import task\n@task\ndef f(): ...\nif __name__ == '__main__': print(f.reference)\n"
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "mod.py").write_text(body)
    (tmp_path / "alone.py").write_text(body)

    def reference(*arguments: str) -> str:
        path = ":".join([str(tmp_path), *sys.path])
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env={"PYTHONPATH": path}, text=True, check=True, capture_output=True
        )
        return done.stdout.strip()

    assert reference("alone.py") == f"{tmp_path / 'alone.py'}:f"
    assert reference("-c", "import alone; print(alone.f.reference)") == f"{tmp_path / 'alone.py'}:f"
    assert reference("-m", "pkg.mod") == "pkg.mod:f"
    assert reference("-c", "from pkg.mod import f; print(f.reference)") == "pkg.mod:f"


class Holder:
    def method(self) -> None: ...


def positional(x: int, /) -> None: ...


def star(*x: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: None, "is a lambda: it has no name"),
        (Holder.method, "is a method"),
        (Holder, "expected a function"),
        (print, "expected a function"),
        (positional, "takes x by position only"),
        (star, "takes x by position only"),
    ],
)
def test_what_a_node_could_not_call_is_refused(function: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        task(function)


def test_nested_functions_are_refused() -> None:
    def inner() -> None: ...

    with pytest.raises(SpecError, match="inner: is defined inside of a function"):
        task(inner)


def test_wrong_options_are_refused_where_they_stand() -> None:
    with pytest.raises(SpecError, match=r"tasks.star_free.retires: .* did you mean 'retries'"):
        task(retires=1)(star_free)  # type: ignore[call-overload]
    with pytest.raises(SpecError, match=r"timeout: 'soon' is not a duration"):
        task(timeout="soon")(star_free)


def star_free() -> None: ...


def test_options_are_the_keys_of_yaml() -> None:
    def names(options: Any) -> set[str]:
        return {*typing.get_type_hints(options)}

    every = {field.key for field in keys.TASK.fields} - {*keys.EXECUTORS, "with"}
    assert names(FunctionOptions) == every - {"name", "needs", "map", "env", "cwd"}
    assert names(CallOptions) == every - {"map", "env", "cwd"}
    assert names(ShellOptions) == every - {"isolation"}


# -- a task in a workflow


def test_a_call_adds_a_task() -> None:
    def body(url: str) -> Any:
        return parse(fetch(url, depth=3))

    found = tasks_of(body)
    assert found["fetch"] == TaskSpec(
        name="fetch", executor="python", call=fetch.reference, args={"url": "${{ inputs.url }}", "depth": 3}
    )
    assert found["parse"] == TaskSpec(
        name="parse",
        executor="python",
        call=parse.reference,
        args={"page": "${{ tasks.fetch.output }}"},
        retry=RetryPolicy(2),
        timeout_ms=300_000,
        requires=("network",),
        type="research",
    )


def test_names_are_counted_on() -> None:
    def body() -> None:
        fetch("a")
        fetch.options(name="fetch_2")("b")
        fetch("c")
        fetch("d")

    assert [(name, one.args["url"]) for name, one in tasks_of(body).items()] == list(
        zip(("fetch", "fetch_2", "fetch_3", "fetch_4"), "abcd", strict=True)
    )


def test_a_name_given_twice_is_refused() -> None:
    def body() -> None:
        fetch("a")
        fetch.options(name="fetch")("b")

    with pytest.raises(SpecError, match=r"tasks\.fetch: there are two tasks of this name"):
        tasks_of(body)


def test_arguments_are_checked_at_the_call() -> None:
    def body() -> None:
        fetch()  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="missing a required argument: 'url'"):
        tasks_of(body)


def test_map() -> None:
    def body(urls: list[str], base: str) -> Any:
        pages = fetch.map(urls)
        parse.map(pages)
        fetch.options(name="fixed", max_parallel=2).map(["a", base], depth=index)
        collect.options(name="named").map(pages, part=item.deep[0], base=base)
        fetch.options(name="raw").map("${{ range(3) }}", url=item)
        return pages

    found = tasks_of(body)
    assert (found["fetch"].map, found["fetch"].args) == ("${{ inputs.urls }}", {"url": "${{ item }}"})
    assert (found["parse"].map, found["parse"].max_parallel) == ("${{ tasks.fetch.output }}", 4)
    assert found["fixed"].map == ["a", "${{ inputs.base }}"]
    assert found["fixed"].args == {"url": "${{ item }}", "depth": "${{ index }}"}
    assert found["named"].args == {"part": "${{ item.deep[0] }}", "base": "${{ inputs.base }}"}
    assert (found["raw"].map, found["raw"].args) == ("${{ range(3) }}", {"url": "${{ item }}"})


def test_options_of_one_use() -> None:
    tidy = tick.options(name="tidy", when=None)

    def body(go: bool) -> None:
        first, flag, ended = tick(), cast(Any, input_ref("go")), cast(Any, task_ref("tick"))
        handler = tidy()
        tick.options(name="other")()
        fetch.options(needs=[first, "other"], when=go, on_failure={"run": handler}, locks=[f"lock-{go}"])("a")
        fetch.options(needs=first, when=(flag == "yes") & ~ended)("a")

    found = tasks_of(body)
    assert (found["fetch"].needs, found["fetch"].when) == (("tick", "other"), "${{ inputs.go }}")
    assert found["fetch"].on_failure == "run:tidy"
    assert found["fetch"].locks[0].name == "lock-${{ inputs.go }}"
    assert found["fetch_2"].when == "${{ ((inputs.go == 'yes') and (not tasks.tick.output)) }}"
    assert found["tidy"].when is None
    assert tick.name == "tick", "options made a copy"


def test_shell() -> None:
    def body(path: str) -> None:
        lint = shell(f"ruff check {path} && echo '${{HOME}}'", name="lint", env={"P": path}, cwd=path, timeout="5m")
        shell(["echo", lint, 3], map=[1, 2], max_parallel=1)
        shell("pytest ${{ item }}", map=path, needs=lint)

    found = tasks_of(body)
    assert found["lint"].call == "ruff check ${{ inputs.path }} && echo '${HOME}'"
    assert (found["lint"].env, found["lint"].cwd, found["lint"].timeout_ms) == (
        {"P": "${{ inputs.path }}"},
        "${{ inputs.path }}",
        300_000,
    )
    assert (found["shell"].call, found["shell"].max_parallel) == (("echo", "${{ tasks.lint.output }}", "3"), 1)
    assert (found["shell_2"].call, found["shell_2"].map, found["shell_2"].needs) == (
        "pytest ${{ item }}",
        "${{ inputs.path }}",
        ("lint",),
    )


def test_outside_of_a_workflow_there_is_nothing_to_add_to() -> None:
    with pytest.raises(SkepError, match=r"shell\(\) works only inside of a @workflow"):
        shell("ls")
    with pytest.raises(SkepError, match=r"fetch\.map\(\) works only inside of a @workflow"):
        fetch.map(["a"])


def test_needs_takes_tasks_only() -> None:
    def body(x: str) -> None:
        tick.options(needs=[x])()

    with pytest.raises(TypeError, match=r"Ref\(inputs\.x\) is no task's result"):
        tasks_of(body)


# -- Refs

A: Any = task_ref("a")


@pytest.mark.parametrize(
    ("ref", "source"),
    [
        (A, "tasks.a.output"),
        (task_ref("a-b.c"), "tasks['a-b.c'].output"),
        (task_ref("from"), "tasks['from'].output"),
        (A.y.z, "tasks.a.output.y.z"),
        (A["y"][0], "tasks.a.output.y[0]"),
        (A["it's"], 'tasks.a.output["it\'s"]'),
        (A["__x"], "tasks.a.output['__x']"),
        (A[input_ref("i")], "tasks.a.output[inputs.i]"),
        (A == 3, "(tasks.a.output == 3)"),
        (A != None, "(tasks.a.output != null)"),  # noqa: E711
        (A >= 0.5, "(tasks.a.output >= 0.5)"),
        (A + "x", "(tasks.a.output + 'x')"),
        ("x" + A, "('x' + tasks.a.output)"),
        (1 - A, "(1 - tasks.a.output)"),
        ((A < True) | ~A, "((tasks.a.output < true) or (not tasks.a.output))"),
        (A == [1, "b"], "(tasks.a.output == [1, 'b'])"),
    ],
)
def test_expressions_of_refs(ref: Any, source: str) -> None:
    assert isinstance(ref, Ref)
    assert template_data(ref) == value_data(ref) == f"${{{{ {source} }}}}"


def test_a_ref_has_no_value_yet() -> None:
    with pytest.raises(TypeError, match=r"decide with \.options\(when=…\)"):
        bool(A == 3)
    with pytest.raises(TypeError, match=r"make a task for each item with \.map"):
        list(A)
    with pytest.raises(TypeError, match="cannot be formatted"):
        f"{A:>3}"
    with pytest.raises(TypeError, match="a text, a number"):
        {1} == A  # noqa: B015
    with pytest.raises(TypeError, match="expected a key or an index, found a float"):
        A[1.5]
    with pytest.raises(AttributeError, match=r"write ref\['_x'\]"):
        A._x  # noqa: B018


@dataclass
class Point:
    x: Any
    when: date


def test_values_become_json_and_their_texts_stay_texts() -> None:
    assert value_data(f"a ${{{{ x }}}} {A} ${A}") == "a $${{ x }} ${{ tasks.a.output }} ${{ '$' }}${{ tasks.a.output }}"
    assert value_data({"p": Point(A, date(2024, 1, 2)), "t": (1, [A.k])}) == {
        "p": {"x": "${{ tasks.a.output }}", "when": "2024-01-02"},
        "t": [1, ["${{ tasks.a.output.k }}"]],
    }
    assert value_data({1: True}) == {"1": True}
    with pytest.raises(TypeError, match="found a PurePosixPath"):
        value_data([PurePosixPath("x")])
    with pytest.raises(TypeError, match="a key of a mapping must be known now"):
        value_data({f"{A}": 1})


def test_options_are_templates() -> None:
    assert template_data([f"${{{{ x }}}} {A}", {"k": A}]) == ["${{ x }} ${{ tasks.a.output }}", {"k": "${{ tasks.a.output }}"}]

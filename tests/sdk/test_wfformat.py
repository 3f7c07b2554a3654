"""WfFormat: real recorded runs become workflows that replay them, and broken files are refused with the path."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skep.errors import SpecError
from skep.flow.plan import compile_plan
from skep.flow.templates import template
from skep.model.spec import Resources
from skep.sdk.wfformat import import_instance
from skep.sdk.yaml import dump, load_text

INSTANCES = sorted((Path(__file__).parents[2] / "examples" / "wfformat").glob("*.json"))


def instance(**record: Any) -> dict[str, Any]:
    """Two tasks, one after the other; `record` changes what was recorded of the second."""
    second = {
        "id": "b/2",
        "runtimeInSeconds": 1.5,
        "command": {"program": "/bin/it's", "arguments": ["x y", "${{ z }}"]},
        "coreCount": 2,
        "memoryInBytes": 1_000,
        **record,
    }
    return {
        "name": "two tasks",
        "schemaVersion": "1.5",
        "createdAt": "2024-05-06T07:08:09Z",
        "runtimeSystem": {"name": "Pegasus"},
        "workflow": {
            "specification": {
                "tasks": [
                    {"name": "n", "id": "a", "parents": [], "children": ["b/2"]},
                    {"name": "n", "id": "b/2", "parents": ["a"], "children": []},
                ]
            },
            "execution": {"tasks": [{"id": "a", "runtimeInSeconds": 0.0004}, second]},
        },
    }


@pytest.mark.parametrize("path", INSTANCES, ids=lambda path: path.stem)
def test_real_instances(path: Path) -> None:
    data = json.loads(path.read_text("utf-8"))
    spec = import_instance(data, time_scale=0.1)
    tasks = {task.name: task for task in spec.tasks}
    recorded = {row["id"]: row for row in data["workflow"]["execution"]["tasks"]}
    assert tasks.keys() == recorded.keys()
    for row in data["workflow"]["specification"]["tasks"]:
        task = tasks[row["id"]]
        assert {*task.needs} == {*row["parents"]}
        assert task.estimated_ms == pytest.approx(recorded[row["id"]]["runtimeInSeconds"] * 100, abs=0.501)
        assert task.call == (("sleep", f"{task.estimated_ms / 1_000:g}") if task.estimated_ms else ("true",))
    compile_plan(spec)
    assert load_text(dump(spec)) == spec


def test_there_are_real_instances() -> None:
    assert len(INSTANCES) == 5


def test_a_small_one() -> None:
    spec = import_instance(instance())
    first, second = spec.tasks
    assert spec.name == "two_tasks"
    assert spec.description == "two tasks, recorded by Pegasus on 2024-05-06; imported from WfCommons WfFormat 1.5."
    assert (first.name, first.call, first.needs) == ("a", ("true",), ())
    assert (second.name, second.call, second.needs) == ("b_2", ("sleep", "1.5"), ("a",))
    assert second.labels == {"program": "it's", "recorded_seconds": "1.5", "recorded_memory": "1000", "recorded_cores": "2"}
    assert second.resources is None
    assert second.estimated_ms == 1_500


def test_recorded_resources_on_demand() -> None:
    first, second = import_instance(instance(), keep_resources=True).tasks
    assert (first.resources, second.resources) == (None, Resources(cpu_milli=2_000, memory=1_000))


@pytest.mark.parametrize(
    ("scale", "call"), [(0, ("true",)), (0.0005, ("sleep", "0.001")), (0.0003, ("true",)), (10, ("sleep", "15"))]
)
def test_time_scale(scale: float, call: tuple[str, ...]) -> None:
    assert import_instance(instance(), time_scale=scale).tasks[1].call == call


def test_the_command_gets_quoted_values() -> None:
    spec = import_instance(
        instance(), command="printf '%s|' {id} {program} {arguments} {runtime} ${{ 'e' }} ${HOME} {other}", time_scale=2
    )
    line = template(str(spec.tasks[1].call))
    assert line is not None
    rendered = "".join(part if isinstance(part, str) else "e" for part in line.parts)
    done = subprocess.run(["sh", "-c", rendered], text=True, check=True, capture_output=True, env={"HOME": "h"})
    assert done.stdout == "b/2|/bin/it's|x y|${{ z }}|3|e|h|{other}|"


@pytest.mark.parametrize("command", ["echo '{id}'", 'echo "{program}"', "ls # {id}", "cat <<END\n{id}\nEND"])
def test_placeholders_in_quotes_are_refused(command: str) -> None:
    with pytest.raises(SpecError, match="command: what is put in is quoted already"):
        import_instance(instance(), command=command)


def test_a_command_with_a_broken_expression_is_refused() -> None:
    with pytest.raises(SpecError, match="command: expected }}"):
        import_instance(instance(), command="echo ${{ x")


def test_ids_that_are_no_names_stay_apart() -> None:
    data = instance()
    for rows in (data["workflow"]["specification"]["tasks"], data["workflow"]["execution"]["tasks"]):
        rows += [
            {"id": name, "parents": [], "children": [], "runtimeInSeconds": 0} for name in ("b_2", "b 2", "1", "_1", "x" * 300)
        ]
    names = [task.name for task in import_instance(data).tasks]
    assert names == ["a", "b_2_2", "b_2", "b_2_3", "_1_2", "_1", "x" * 190]


Change = Callable[[dict[str, Any]], Any]


def specified(data: dict[str, Any]) -> Any:
    return data["workflow"]["specification"]["tasks"]


def executed(data: dict[str, Any]) -> Any:
    return data["workflow"]["execution"]["tasks"]


S, E = "workflow.specification.tasks", "workflow.execution.tasks"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(schemaVersion="1.4"), "schemaVersion: found '1.4', expected a WfFormat document of version '1.5'"),
        (lambda d: d.pop("schemaVersion"), "schemaVersion: found nothing"),
        (lambda d: d.pop("workflow"), f"{S}: found nothing, expected a list of tasks"),
        (lambda d: d["workflow"].update(execution=3), f"{E}: found nothing, expected a list of tasks"),
        (lambda d: specified(d).clear(), f"{S}: found nothing, expected a list of tasks"),
        (lambda d: specified(d).append("x"), f"{S}[2].id: found nothing, expected the id"),
        (lambda d: specified(d).append(specified(d)[0]), f"{S}[2].id: there are two tasks 'a'"),
        (lambda d: executed(d).append(executed(d)[0]), f"{E}[2].id: there are two tasks 'a'"),
        (lambda d: executed(d).pop(0), f"{S}[0]: task 'a' has no record in {E}"),
        (lambda d: specified(d)[1]["parents"].clear(), f"{S}[0].children: names 'b/2', whose `parents` do not name 'a'"),
        (lambda d: specified(d)[0]["children"].clear(), f"{S}[1].parents: names 'a', whose `children` do not name 'b/2'"),
        (lambda d: specified(d)[1]["parents"].append("aa"), f"{S}[1].parents: there is no task 'aa'"),
        (lambda d: specified(d)[1].update(parents=None), f"{S}[1].parents: found nothing, expected a list of ids"),
        (lambda d: executed(d)[1].pop("runtimeInSeconds"), f"{E}[1].runtimeInSeconds: found nothing, expected a number"),
        (lambda d: executed(d)[1].update(runtimeInSeconds=-1), f"{E}[1].runtimeInSeconds: found the number -1"),
        (lambda d: executed(d)[1].update(runtimeInSeconds=float("nan")), f"{E}[1].runtimeInSeconds: found the number nan"),
        (lambda d: executed(d)[1].update(memoryInBytes="1"), f"{E}[1].memoryInBytes: found '1'"),
        (lambda d: executed(d)[1].update(command={"program": 1}), f"{E}[1].command: expected a `program`"),
        (lambda d: executed(d)[1].update(command="ls"), f"{E}[1].command: expected a `program`"),
    ],
)
def test_broken_files_are_refused(change: Change, problem: str) -> None:
    data = copy.deepcopy(instance())
    change(data)
    with pytest.raises(SpecError) as caught:
        import_instance(data)
    assert str(caught.value).splitlines()[0].startswith(problem)


@pytest.mark.parametrize("data", [None, [], "x", {}])
def test_what_is_no_document_is_refused(data: Any) -> None:
    with pytest.raises(SpecError, match="schemaVersion: found nothing"):
        import_instance(data)


@pytest.mark.parametrize("scale", [-1, float("nan"), float("inf"), "1", None, True])
def test_bad_time_scales(scale: Any) -> None:
    with pytest.raises(SpecError, match="time_scale: found"):
        import_instance(instance(), time_scale=scale)

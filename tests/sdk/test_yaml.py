"""YAML and JSON files: how plain words are read, where a problem is, and what is refused before it costs anything."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.errors import Problem, SpecError
from skep.model.authoring import build_workflow, spec_to_data
from skep.sdk.yaml import MAX_ALIASED, dump, load_file, load_text, with_lines

HEAD = "name: w\n"
TASK = "tasks:\n  a:\n    run: x\n"


def problem(text: str) -> Problem:
    """The one problem of a document."""
    with pytest.raises(SpecError) as caught:
        load_text(text, "f.yaml")
    [found] = caught.value.problems
    assert str(caught.value) == f"f.yaml: {found}"
    return found


def plain(text: str) -> Any:
    """What a word without quotes is read as."""
    inputs = load_text(f"{HEAD}inputs:\n  x: {text}\n{TASK}").inputs
    assert inputs is not None
    return inputs["x"]


@pytest.mark.parametrize(
    "text", ["yes", "No", "on", "off", "y", "1:30", "0755", "0x1f", "1_000", "2024-01-01", ".5", "+1", "="]
)
def test_what_looks_like_a_text_is_one(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-0.5", -0.5),
        ("1e3", 1000.0),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_words_of_json(text: str, value: Any) -> None:
    found = plain(text)
    assert found == value
    assert type(found) is type(value)


def test_keys_are_taken_as_they_are_written() -> None:
    spec = load_text("name: w\ntasks: {on: {run: x}, null: {run: y}}\nlabels: {1: a, true: b}")
    assert [task.name for task in spec.tasks] == ["on", "null"]
    assert spec.labels == {"1": "a", "true": "b"}


def test_lines_of_problems() -> None:
    text = (
        "name: w\n"  # 1
        "tasks:\n"
        "  # a comment\n"
        "  a:\n"
        "    run: |\n"  # 5
        "      one\n"
        "      two\n"
        "    retries: {limit: 1,\n"
        "              dely: 1}\n"
        "    needs:\n"  # 10
        "      - b\n"
        "      - 3\n"
        "  b: {}\n"
        "other: 1\n"
    )
    with pytest.raises(SpecError) as caught:
        load_text(text, "f.yaml")
    assert {found.path: found.line for found in caught.value.problems} == {
        "other": 14,
        "tasks.a.retries.dely": 9,
        "tasks.a.needs[1]": 12,
        "tasks.b": 13,
    }
    assert "f.yaml: line 12: tasks.a.needs[1]: found the number 3" in str(caught.value)


def test_lines_of_listed_tasks() -> None:
    assert problem("name: w\ntasks:\n  - run: x\n    name: a\n    timeout: soon\n").line == 5


def test_lines_for_the_checks_of_the_graph() -> None:
    text = f"{HEAD}{TASK}  b.c:\n    run: x\n    when: '('\n  d:\n    run: y\n"
    paths = ["tasks.b.c.when", "tasks.d.needs", "tasks.a.run.deeper[3].still", "nowhere", ""]
    error = with_lines(SpecError([Problem(path, "wrong") for path in paths]), text, "f.yaml")
    assert [found.line for found in error.problems] == [7, 8, 4, None, None]
    assert str(error).startswith("f.yaml: line 7: tasks.b.c.when: wrong")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "is empty"),
        ("# only a comment\n", None, "is empty"),
        ("- a\n", None, "found a list, expected a mapping"),
        ("just text", None, "found 'just text', expected a mapping"),
        ("name: w\ntasks:\n  a: {run: x}\n  a: {run: y}\n", 4, "has the key 'a' twice"),
        ("name: w\nname: v\n", 2, "has the key 'name' twice"),
        ("name: [w\ntasks: 1\n", 2, "is not valid YAML"),
        ("name: w\ntasks:\n  a: {run: ruff ${{ inputs.x }} }\n", 3, "a text with ${{ }} inside of { } or [ ] needs quotes"),
        ("name: w\n---\nname: v\n", 2, "a second document"),
        ("name: !!python/object:os.system x\n", 1, "found the tag"),
        ("name: w\nx: !custom 1\n", 2, "found the tag !custom"),
        ("? [a]\n: b\n", 1, "a key that is no text"),
        ("name: w\nx:\n  <<: {a: 1}\n", 3, "put what tasks share under `defaults`"),
        ("name: &a [*a]\n", 1, "the alias *a without, or inside of"),
        ("name: *a\n", 1, "the alias *a"),
        ("x: " + "[" * 200, 1, "deeper than 100 levels"),
        ("name: \x01\n", None, "control characters are not allowed"),
        ("name: \ud800\n", None, "is not valid Unicode"),
        ('{"name": "w", "name": "v"}', 1, "has the key 'name' twice"),
        ('{"name": "w",\n "tasks": ]}', 2, "is not valid YAML"),
    ],
)
def test_documents_that_are_refused(text: str, line: int | None, message: str) -> None:
    found = problem(text)
    assert message in found.message
    assert found.line == line


def test_aliases() -> None:
    spec = load_text(f"{HEAD}tasks:\n  a: &same {{run: x, timeout: 5m}}\n  b: *same\n")
    assert spec.tasks[0].timeout_ms == spec.tasks[1].timeout_ms == 300_000


def test_an_alias_bomb_is_refused() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    found = problem("\n".join(rows))
    assert f"repeats more than {MAX_ALIASED:,} values" in found.message
    assert found.line is not None


def test_json_files() -> None:
    data = {"name": "w", "tasks": {"a": {"run": "echo \U0001f41d / \t"}}}
    assert load_text(json.dumps(data, indent="\t")) == build_workflow(data)
    assert problem('{"name": "w",\n "tasks": {"a":\n  {"run": 1}}}').line == 3
    assert problem('{"name": "w", "tasks": {"a": {"run": "x"}}, "output": NaN}').path == "output"
    assert "deeper" in problem('{"name": ' + "[" * 5_000 + "]" * 5_000 + "}").message


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + (HEAD + TASK).encode())
    assert load_file(file) == load_text(HEAD + TASK)
    file.write_bytes(b"name: w\n# caf\xe9\n")
    with pytest.raises(SpecError, match=rf"{file}: line 2: expected UTF-8, found byte 0xe9"):
        load_file(file)
    with pytest.raises(SpecError, match=r"missing\.yaml: cannot be read: No such file"):
        load_file(tmp_path / "missing.yaml")
    with pytest.raises(SpecError, match=r"cannot be read: Is a directory"):
        load_file(tmp_path)


TRAPS = (
    *("yes", "1e3", "0755", "1:30", "null", "~", "2024-01-01", "- a", "a: b", "#", "<<", "=", "a\n\n b \n", " a", "\t", "1_0"),
    *("-0", ".inf", "!x", "&x", "*x", "---", "\x85", "\u2028", "\ufeff", "\x7f", "\r\n"),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10) | st.sampled_from(TRAPS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXTS.filter(bool), JSON, max_size=3), TEXTS.filter(bool), JSON)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_back(arguments: dict[str, Any], line: str, output: Any) -> None:
    tasks = {"a": {"python": "m:f", "with": arguments}, "b": {"run": line}, "c": {"run": [line, "x"], "env": {"A": line}}}
    spec = build_workflow({"name": "w", "tasks": tasks, "output": output})
    assert load_text(dump(spec)) == spec
    assert load_text(json.dumps(spec_to_data(spec))) == spec


@given(st.text(max_size=40) | st.lists(st.sampled_from(list("ab:-[]{}&*!|>'\"#? \n,%@`~<"))).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(SpecError):  # none of these has both a name and tasks
        load_text(text)


def test_written_for_people() -> None:
    tasks = {"a": {"run": "one\ntwo\n", "timeout": "90s", "resources": {"memory": "512MiB", "cpu": 2.0}}}
    assert dump(build_workflow({"name": "w", "tasks": tasks})) == (
        "name: w\ntasks:\n  a:\n    run: |\n      one\n      two\n    timeout: 1m30s\n"
        "    resources:\n      cpu: 2\n      memory: 512MiB\n"
    )

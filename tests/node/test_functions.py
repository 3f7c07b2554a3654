"""Finding functions, and turning what they give and raise into data."""

import sys
import threading
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skep.node.functions import (
    MAX_MESSAGE,
    MAX_TRACEBACK,
    FunctionNotFound,
    ResultError,
    arguments,
    clean,
    encode_result,
    error_info,
    find_function,
    is_coroutine_function,
    registry,
)


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("os.path:join", "json:dumps"):
        monkeypatch.setitem(registry, name, len)
        del registry[name]


def test_functions_of_modules() -> None:
    assert find_function("json:dumps")({}) == "{}"
    assert find_function("json:JSONDecoder.decode") is not None
    assert "json:dumps" in registry


def test_what_is_known_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry, "no_such_module:f", len)
    assert find_function("no_such_module:f") is len


def test_functions_of_files_see_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_flow.py").write_text("x = 42\n")
    file = tmp_path / "my flow.py"
    file.write_text("from neighbour_of_flow import x\nclass A:\n    @staticmethod\n    def f(): return x\n")
    assert find_function(f"{file}:A.f")() == 42


def test_a_file_that_fails_is_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "flow.py"
    file.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        find_function(f"{file}:f")
    file.write_text("def f(): return 'mended'\n")
    assert find_function(f"{file}:f")() == "mended"


def test_a_file_is_run_once_however_many_want_it(tmp_path: Path) -> None:
    file = tmp_path / "flow.py"
    file.write_text("import time\nseen = []\ntime.sleep(0.02)\nseen.append(1)\ndef f(): return seen\n")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(find_function(f"{file}:f")())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[1]] * 5


@pytest.mark.parametrize("reference", ["json:nothing", "json:__doc__", "json:", "/no/file.py:f", "json:dumps.no.such"])
def test_not_found(reference: str) -> None:
    with pytest.raises(FunctionNotFound):
        find_function(reference)


def test_the_function_behind_a_task(tmp_path: Path) -> None:
    file = tmp_path / "flow.py"
    file.write_text("from skep import task\n@task(retries=1)\ndef f(x: int) -> int: return x\n")
    assert find_function(f"{file}:f")(3) == 3


def test_coroutine_functions() -> None:
    async def f() -> None: ...

    class Async:
        async def __call__(self) -> None: ...

    assert is_coroutine_function(f)
    assert is_coroutine_function(Async())
    assert not is_coroutine_function(Async)
    assert not is_coroutine_function(len)


def test_arguments() -> None:
    assert arguments(None) == {}
    assert arguments({"a": 1}) == {"a": 1}
    with pytest.raises(TypeError, match="got str"):
        arguments("a")


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize(
    ("value", "data"),
    [(None, b"null"), (Point(1), b'{"x":1}'), ({"a": [1, 2.5, True]}, b'{"a":[1,2.5,true]}'), ("\0", b'"\\u0000"')],
)
def test_results(value: Any, data: bytes) -> None:
    assert encode_result(value) == data


@dataclass
class Loss:
    values: Any


@pytest.mark.parametrize(
    "value", [nan, [1.0, {"a": (inf,)}], {"a": None, "b": -inf}, Loss({1: [nan]}), [msgspec.Raw(b"1"), nan]]
)
def test_a_result_that_json_has_no_number_for(value: Any) -> None:
    with pytest.raises(ResultError, match=r"the result is not JSON: JSON has no (nan|-?inf); give null"):
        encode_result(value)


@pytest.mark.parametrize("value", [{"a": None}, "null", [None, 1.5], Loss(None), [msgspec.Raw(b"null")], {1: None}])
def test_a_result_with_null_is_one(value: Any) -> None:
    assert b"null" in encode_result(value)


def test_a_result_that_raises() -> None:
    class Sly(msgspec.Struct):
        x: object

    with pytest.raises(ResultError, match="not JSON"):
        encode_result(Sly(object()))


def test_errors_are_cut_and_cleaned() -> None:
    def fail() -> None:
        raise ValueError("\0" + "x" * 10_000)

    def deeper(n: int) -> None:
        if n:
            deeper2(n - 1)
        fail()

    def deeper2(n: int) -> None:
        deeper(n)

    with pytest.raises(ValueError, match="x") as caught:
        deeper(300)
    info = error_info(caught.value)
    assert info.type == "ValueError"
    assert info.message.startswith("\ufffdx")
    assert (len(info.message), len(info.traceback)) == (MAX_MESSAGE, MAX_TRACEBACK)
    assert info.parents == ("Exception",)
    msgspec.json.encode(info)


def test_causes_are_shown() -> None:
    try:
        try:
            {}["key"]  # type: ignore[index]
        except KeyError as error:
            raise RuntimeError("no key") from error
    except RuntimeError as error:
        info = error_info(error)
    assert "KeyError: 'key'" in info.traceback
    assert "direct cause" in info.traceback


def test_clean() -> None:
    assert clean("a\0b\ud800c") == "a\ufffdb?c"

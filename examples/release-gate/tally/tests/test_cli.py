import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tally
from tally.cli import main

SAMPLE = Path(__file__).parent.parent / "samples" / "requests.csv"


def test_the_sample_prints_what_the_smoke_test_expects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--column", "ms", str(SAMPLE)]) == 0
    assert capsys.readouterr().out == SAMPLE.with_suffix(".expected.txt").read_text()


def test_texts_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SAMPLE), "--column", "path", "--top", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"/": 32, "/search": 30}


def test_numbers_can_be_counted_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SAMPLE), "--pattern", r",(\d{3}),", "--count", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"200": 71, "404": 7, "500": 2}


def test_standard_input_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n2\n\n4\n"))
    assert main(["--percentiles", "50", "--bins", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["percentiles"] == {"50.0": 2.0}
    assert found["histogram"] == [{"low": 1.0, "high": 4.0, "count": 3}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-file"], "No such file"),
        (["--column", "size", str(SAMPLE)], "no column 'size'"),
        (["--pattern", "zebra", str(SAMPLE)], "nothing to count"),
        (["--column", "ms", "--percentiles", "50,200", str(SAMPLE)], "between 0 and 100"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error
    assert error.startswith("tally: ")
    assert error.count("\n") == 1


def test_it_runs_as_a_module() -> None:
    source = str(Path(tally.__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-m", "tally", "--count"],
        input="b\na\nb\n",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [["b", "2"], ["a", "1"]]

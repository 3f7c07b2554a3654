"""Shell tasks with real processes: what comes back, what goes wrong, and that nothing stays."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from skep.errors import SupersededError
from skep.model.node import Call, Outcome
from skep.node.executors import shell
from skep.node.executors.shell import ShellExecutor
from skep.node.processes import Processes
from skep.node.secrets import Mask

PYTHON = sys.executable


class Bench:
    """The executor with its host, and a short way to run one command."""

    def __init__(self, executor: ShellExecutor, host: Any, trial: Any) -> None:
        self.executor, self.host, self._trial = executor, host, trial

    def __call__(self, call: str | tuple[str, ...], attempt: int = 1, timeout_ms: int = 0, **more: Any) -> Any:
        return self._trial(self.executor, Call("run", call, **more), attempt, timeout_ms)


@pytest.fixture
async def run(host: Any, trial: Any, opened: Processes, tmp_path: Path) -> AsyncIterator[Bench]:
    executor = ShellExecutor(opened, tmp_path, {"key": "s3cr3t'value", "pin": "987654", "word": "abcdef", "tiny": "ab"})
    await executor.open(host)
    yield Bench(executor, host, trial)
    await executor.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


# -- what comes back


async def test_standard_output_is_the_result(run: Bench) -> None:
    assert await run("echo; echo '  two words '; echo warning >&2").output() == "two words"
    assert bytes(run.host.logs["out"]) == b"\n  two words \n"
    assert bytes(run.host.logs["err"]) == b"warning\n"


async def test_json_in_the_output_file_goes_before_standard_output(run: Bench) -> None:
    trial = run("""echo talk; echo '{"n": 1, "nul": "a\\u0000b"}' > $SKEP_OUTPUT; echo "$SKEP_OUTPUT" >&2""")
    assert await trial.output() == {"n": 1, "nul": "a\0b"}
    folder = Path(run.host.logs["err"].decode().strip()).parent
    assert folder.name.startswith("skep-")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo '{\"a\": x}' > $SKEP_OUTPUT", "byte 6"),
        ("printf '\"\\377\"' > $SKEP_OUTPUT", "0xff"),
        ("echo NaN > $SKEP_OUTPUT", "byte 0"),
        ("truncate -s 65M $SKEP_OUTPUT", "may have 64 MiB, it has 65.0"),
        ("rm $SKEP_OUTPUT; mkfifo $SKEP_OUTPUT", "no longer a file"),
        ("rm $SKEP_OUTPUT; mkdir $SKEP_OUTPUT", "cannot read"),
    ],
)
async def test_invalid_result(run: Bench, command: str, message: str) -> None:
    error = await run(command).error()
    assert error.type == "Result"
    assert message in error.message


async def test_output_file_may_be_removed(run: Bench) -> None:
    assert await run("rm $SKEP_OUTPUT; echo printed").output() == "printed"


async def test_large_result_stays_bytes(run: Bench) -> None:
    command = f"""{PYTHON} -c 'print(list(range(100000)))' > $SKEP_OUTPUT"""
    assert await run(command).output() == list(range(100_000))


async def test_environment(run: Bench) -> None:
    trial = run("echo $SKEP_RUN/$SKEP_TASK/$SKEP_ATTEMPT/$SKEP_TOKEN/$MINE/${HOME:+node}", attempt=3, env={"MINE": "yes"})
    assert await trial.output() == "run-1/build/3/7-42/yes/node"


async def test_argv_has_no_shell(run: Bench) -> None:
    assert await run(("echo", "$HOME; echo `id`", "a  b", "*")).output() == "$HOME; echo `id` a  b *"


async def test_cwd_is_relative_to_the_base(run: Bench, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    assert await run("pwd").output() == str(tmp_path)
    assert await run("pwd", cwd="inner").output() == str(tmp_path / "inner")
    assert await run(("pwd",), cwd="/").output() == "/"


# -- failures


async def test_exit_code_with_the_last_lines(run: Bench) -> None:
    error = await run("seq 100 >&2; echo out; exit 3").error()
    assert (error.type, error.exit_code) == ("ExitCode", 3)
    assert error.message == "exit code 3\n" + "\n".join(str(n) for n in range(91, 101))
    error = await run("echo only out; exit 4").error()
    assert error.message == "exit code 4\nonly out"


async def test_signal(run: Bench) -> None:
    error = await run("kill -KILL $$").error()
    assert (error.type, error.signal) == ("Signal", signal.SIGKILL)
    assert "SIGKILL" in error.message


@pytest.mark.parametrize("call", [("no-such-program-here",), ("./none/at-all",)])
async def test_program_not_found(run: Bench, call: tuple[str, ...]) -> None:
    error = await run(call).error()
    assert error.type == "NotFound"
    assert call[0] in error.message


async def test_directory_not_found(run: Bench, tmp_path: Path) -> None:
    error = await run("true", cwd="nowhere").error()
    assert error.type == "NotFound"
    assert str(tmp_path / "nowhere") in error.message


async def test_nul_in_an_argument(run: Bench) -> None:
    error = await run(("echo", "a\0b")).error()
    assert error.type == "SpawnError"
    assert "null byte" in error.message


async def test_file_that_cannot_be_executed(run: Bench, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("text")
    assert (await run(("./plain",)).error()).type == "SpawnError"


# -- output of all kinds


async def test_fifty_megabytes(run: Bench) -> None:
    output = await run("head -c 50000000 /dev/zero | tr '\\0' x").output()
    assert output == "x" * 65536
    assert len(run.host.logs["out"]) == 50_000_000
    assert run.host.writes < 5_000
    assert b"cut to 64 KiB of 50000000 bytes" in run.host.logs["log"]


async def test_exactly_the_limit_is_not_cut(run: Bench) -> None:
    assert await run("head -c 65536 /dev/zero | tr '\\0' x; echo").output() == "x" * 65536
    assert not run.host.logs["log"]


async def test_character_at_the_cut(run: Bench) -> None:
    output = await run(f"{PYTHON} -c \"print('x' + 'ü' * 40000)\"").output()
    assert output == "x" + "ü" * 32767


async def test_binary_output_and_nul(run: Bench) -> None:
    assert await run("printf 'a\\377b\\000c'").output() == "a\ufffdb\ufffdc"
    assert bytes(run.host.logs["out"]) == b"a\xffb\0c"
    error = await run("printf 'bad\\000\\377' >&2; exit 1").error()
    assert error.message == "exit code 1\nbad\ufffd\ufffd"


async def test_output_streams_while_the_command_runs(run: Bench) -> None:
    trial = run("mkfifo gate; echo first; read line < gate; echo second")
    await run.host.until(lambda: run.host.logs["out"] == b"first\n")
    assert not trial.attempt.ended
    trial.stop("cancel")
    await trial.outcome()


async def test_small_writes_are_gathered(run: Bench) -> None:
    await run("for i in $(seq 500); do echo $i; done").output()
    assert run.host.logs["out"].count(b"\n") == 500
    assert run.host.writes < 100


# -- ends


@pytest.mark.parametrize(
    ("reason", "result", "kind"),
    [("cancel", "cancelled", "Cancelled"), ("timeout", "failed", "Timeout"), ("deadline", "failed", "Deadline")],
)
async def test_stop_reaches_the_whole_tree(run: Bench, reason: str, result: str, kind: str) -> None:
    stubborn = "import os, signal, time; signal.signal(15, 1); os.setsid(); print(os.getpid(), flush=True); time.sleep(99)"
    trial = run(f"trap '' TERM; {PYTHON} -c '{stubborn}' & (sleep 98 & echo $!); echo $$; wait", timeout_ms=500)
    await run.host.until(lambda: run.host.logs["out"].count(b"\n") == 3)
    pids = [int(word) for word in run.host.logs["out"].split()]
    assert all(map(alive, pids))
    began = time.monotonic()
    trial.stop(reason)
    outcome: Outcome = await trial.outcome()
    assert time.monotonic() - began < 2
    assert not any(map(alive, pids))
    assert outcome.result == result
    assert outcome.error is not None
    assert outcome.error.type == kind


async def test_stop_before_it_started(run: Bench) -> None:
    trial = run("sleep 60")
    trial.stop("cancel")
    trial.stop("cancel")
    assert (await trial.outcome(2)).result == "cancelled"


async def test_a_trapped_signal_is_no_success(run: Bench) -> None:
    trial = run("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")
    await run.host.until(lambda: run.host.logs["out"])
    trial.stop("timeout")
    assert (await trial.error()).type == "Timeout"


async def test_stop_after_the_end_is_harmless(run: Bench) -> None:
    trial = run("true")
    assert await trial.output() == ""
    trial.stop("cancel")


async def test_daemon_is_ended_with_a_note(run: Bench) -> None:
    assert int(pid := await run("(setsid sleep 97 > /dev/null 2>&1 & echo $!)").output())
    assert not alive(int(pid))
    assert b"ended 1 process that the command had left behind" in run.host.logs["log"]


async def test_close_ends_what_runs(host: Any, trial: Any, opened: Processes, tmp_path: Path) -> None:
    executor = ShellExecutor(opened, tmp_path)
    await executor.open(host)
    trials = [trial(executor, Call("run", "echo $$; exec sleep 96")) for _ in range(3)]
    await host.until(lambda: host.logs["out"].count(b"\n") == 3)
    await executor.close()
    assert not any(alive(int(pid)) for pid in host.logs["out"].split())
    assert all(one.attempt.ended for one in trials)


# -- checkpoints


async def test_checkpoint_round_trip(run: Bench) -> None:
    error = await run("""echo '{"page": 3}' > $SKEP_CHECKPOINT; exit 1""").error()
    assert error.type == "ExitCode"
    assert run.host.saved == [b'{"page": 3}']
    assert await run("cat $SKEP_CHECKPOINT", attempt=2).output() == '{"page": 3}'
    assert len(run.host.saved) == 1  # unchanged: not saved again


async def test_checkpoint_is_saved_while_it_runs(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "LOOK_S", 0.02)
    trial = run("echo 1 > $SKEP_CHECKPOINT; sleep 95")
    await run.host.until(lambda: run.host.saved == [b"1"])
    assert not trial.attempt.ended
    trial.stop("cancel")
    await trial.outcome()


async def test_checkpoint_survives_a_kill_and_an_empty_file_does_not_count(run: Bench) -> None:
    trial = run("trap '' TERM; echo '[1]' > $SKEP_CHECKPOINT; echo up; sleep 94")
    await run.host.until(lambda: run.host.logs["out"])
    trial.stop("timeout")
    await trial.error()
    assert run.host.saved == [b"[1]"]
    assert await run(": > $SKEP_CHECKPOINT; echo done", attempt=2).output() == "done"
    assert run.host.saved == [b"[1]"]


async def test_checkpoint_that_is_not_json(run: Bench) -> None:
    assert await run("echo half { > $SKEP_CHECKPOINT; echo fine").output() == "fine"
    assert run.host.saved == []
    assert b"the checkpoint was not saved: $SKEP_CHECKPOINT is not JSON" in run.host.logs["log"]


async def test_checkpoint_that_is_refused(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise SupersededError("another attempt took its place")

    monkeypatch.setattr(run.host, "call", refuse)
    assert await run("echo 1 > $SKEP_CHECKPOINT; echo fine").output() == "fine"
    assert b"another attempt took its place" in run.host.logs["log"]


async def test_checkpoint_does_not_hold_back_the_outcome(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Future()

    monkeypatch.setattr(run.host, "call", never)
    monkeypatch.setattr(shell, "SAVE_S", 0.05)
    assert await run("echo 1 > $SKEP_CHECKPOINT; echo fine").output() == "fine"
    assert b"no answer" in run.host.logs["log"]


async def test_earlier_checkpoint_cannot_be_read(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise SupersededError("too late")

    monkeypatch.setattr(run.host, "call", refuse)
    assert (await run("true", attempt=2).error()).type == "SupersededError"


# -- secrets


async def test_secret_is_one_quoted_word_and_masked_everywhere(run: Bench) -> None:
    command = "printf '%s|' ${{ secrets.key }} $ENV x; echo ${{ secrets.key }} >&2"
    trial = run(command, env={"ENV": "${{ secrets.key }}"}, needs_secrets=True)
    assert await trial.output() == "***|***|x|"
    assert bytes(run.host.logs["out"]) == b"***|***|x|"
    assert bytes(run.host.logs["err"]) == b"***\n"


async def test_secret_arrives_as_it_is(run: Bench) -> None:
    trial = run(("sh", "-c", 'test "$1" = "s3cr3t\'value" && echo same', "-", "${{ secrets.key }}"), needs_secrets=True)
    assert await trial.output() == "same"


async def test_other_templates_are_plain_text(run: Bench) -> None:
    assert await run("echo '${{ inputs.x }}'").output() == "${{ inputs.x }}"
    assert await run("echo '$${{ inputs.x }}' ${{ secrets.word }}", needs_secrets=True).output() == "${{ inputs.x }} ***"


async def test_secret_in_errors_and_json(run: Bench) -> None:
    error = await run("echo ${{ secrets.key }} >&2; exit 1", needs_secrets=True).error()
    assert error.message == "exit code 1\n***"
    error = await run(("${{ secrets.word }}-program",), needs_secrets=True).error()
    assert error.type == "NotFound"
    assert "abcdef" not in error.message
    command = "echo '[\"x'${{ secrets.word }}'\", 987654, 1, true, null]' > $SKEP_OUTPUT; : ${{ secrets.pin }}"
    assert await run(command, needs_secrets=True).output() == ["x***", "***", 1, True, None]


async def test_missing_secret_is_named(run: Bench) -> None:
    error = await run("echo ${{ secrets.key }} ${{ secrets.absent }}", needs_secrets=True).error()
    assert error.type == "Secrets"
    assert "'absent'" in error.message
    assert "key" not in error.message
    assert await run("echo ${{ default(secrets.absent, 'none') }}", needs_secrets=True).output() == "none"


async def test_short_secret_is_not_masked(run: Bench) -> None:
    assert await run("echo tab ${{ secrets.tiny }}", needs_secrets=True).output() == "tab ab"


@pytest.mark.parametrize("size", range(1, 9))
def test_mask_across_chunks(size: int) -> None:
    mask = Mask(["abcabd", "abcabdef", "x'y z", "one\nline two\n"])
    text = b"abcabcabd abcabdef abcab x'y z one\nline two. line two one"
    done, rest = b"", b""
    for start in range(0, len(text), size):
        masked, rest = mask.cut(rest + text[start : start + size])
        done += masked
    assert done + mask.whole(rest) == b"abc*** *** abcab *** ***. *** one"


def test_mask_of_nothing_passes_all() -> None:
    assert Mask().cut(b"abc") == (b"abc", b"")
    assert Mask(["", "abc"]).cut(b"abc") == (b"abc", b"")


async def test_many_at_once(run: Bench) -> None:
    trials = [run(f"echo {n}") for n in range(60)]
    assert [await trial.output() for trial in trials] == [str(n) for n in range(60)]


async def test_a_grant_may_say_where_relative_paths_start(run: Bench, trial: Any, tmp_path: Path) -> None:
    base = tmp_path / "elsewhere"
    (base / "sub").mkdir(parents=True)
    assert await trial(run.executor, Call("run", "pwd"), base=str(base)).output() == str(base)
    assert await trial(run.executor, Call("run", "pwd", cwd="sub"), base=str(base)).output() == str(base / "sub")
    assert await run("pwd").output() == str(tmp_path)

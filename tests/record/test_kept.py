"""Shared state, checkpoints, logs and artifacts, and the fence before them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skep.errors import ConflictError, NotFoundError, RecordError, RefusedError, SupersededError
from skep.model.node import LogChunk
from skep.model.run import Token
from skep.record import chunks
from skep.record.protocol import Fence, StateValue
from skep.record.sql import SqlRecord

NOW = 1_750_000_000_000


def fence(epoch: int, n: int, task: int = 0) -> Fence:
    return Fence("r1", task, Token(epoch, n))


async def test_state_is_versioned(record: SqlRecord) -> None:
    put = record.put_state
    assert await record.get_state("n", "k", NOW) is None
    assert await put("n", "k", b"a", now_ms=NOW, ttl_ms=0, expect=0) == 1
    assert await put("n", "k", b"\xff\0", now_ms=NOW, ttl_ms=0) == 2
    with pytest.raises(ConflictError, match="version 2, expected 1"):
        await put("n", "k", b"c", now_ms=NOW, ttl_ms=0, expect=1)
    assert await record.get_state("n", "k", NOW) == StateValue(b"\xff\0", 2, 0)
    assert await record.get_state("other", "k", NOW) is None


async def test_state_expires_and_never_repeats_a_version(record: SqlRecord) -> None:
    await record.put_state("n", "k", b"a", now_ms=NOW, ttl_ms=10)
    assert await record.get_state("n", "k", NOW + 9) == StateValue(b"a", 1, NOW + 10)
    assert await record.get_state("n", "k", NOW + 10) is None
    with pytest.raises(ConflictError):
        await record.put_state("n", "k", b"b", now_ms=NOW + 10, ttl_ms=0, expect=1)
    assert await record.put_state("n", "k", b"b", now_ms=NOW + 10, ttl_ms=0, expect=0) == 2


@pytest.mark.parametrize(("key", "value"), [("a\0b", b""), ("\ud800", b""), ("k", "text")])
async def test_a_bad_put_is_refused_alone(record: SqlRecord, key: str, value: bytes) -> None:
    with pytest.raises((RefusedError, RecordError)):
        await record.put_state("n", key, value, now_ms=NOW, ttl_ms=0)
    assert await record.put_state("n", "k", b"1", now_ms=NOW, ttl_ms=0) == 1


async def test_a_lower_token_is_refused_everywhere(record: SqlRecord) -> None:
    await record.save_checkpoint(fence(1, 9), b"first", NOW)
    assert await record.load_checkpoint(fence(2, 1)) == b"first"
    old = fence(1, 10)
    with pytest.raises(SupersededError):
        await record.save_checkpoint(old, b"late", NOW)
    with pytest.raises(SupersededError):
        await record.load_checkpoint(old)
    with pytest.raises(SupersededError):
        await record.get_state("n", "k", NOW, old)
    with pytest.raises(SupersededError):
        await record.put_state("n", "k", b"1", now_ms=NOW, ttl_ms=0, fence=old)
    assert await record.load_checkpoint(fence(2, 1)) == b"first"
    assert await record.load_checkpoint(fence(1, 1, task=1)) is None, "each task has a fence of its own"


async def test_a_read_raises_the_fence(record: SqlRecord) -> None:
    assert await record.get_state("n", "k", NOW, fence(2, 2)) is None
    with pytest.raises(SupersededError):
        await record.save_checkpoint(fence(2, 1), b"late", NOW)
    with pytest.raises(ConflictError):
        await record.put_state("n", "k", b"1", now_ms=NOW, ttl_ms=0, expect=4, fence=fence(3, 1))
    with pytest.raises(SupersededError):
        await record.load_checkpoint(fence(2, 2))


async def test_logs_come_in_the_order_of_arrival(record: SqlRecord) -> None:
    def chunk(attempt: int, stream: str, offset: int, data: bytes) -> LogChunk:
        return LogChunk("r1", 0, attempt, stream, offset, NOW, data)

    a, b, c = chunk(1, "out", 0, b"\xffa"), chunk(1, "err", 0, b"b"), chunk(2, "out", 0, b"c")
    await record.append_logs([a, b])
    await record.append_logs([chunk(1, "out", 0, b"again"), c])
    await record.append_logs([])
    assert await record.logs("r1", 0) == [a, b, c]
    assert await record.logs("r1", 0, 1) == [a, b]
    assert await record.logs("r1", 0, after=1, limit=1) == [b]
    assert await record.logs("r1", 7) == []


async def test_one_bad_chunk_keeps_its_whole_call_out(record: SqlRecord) -> None:
    good = LogChunk("r1", 0, 1, "out", 0, NOW, b"a")
    with pytest.raises(RecordError):
        await record.append_logs([good, LogChunk("r1", 0, 1, "out", 2**70, NOW, b"b")])
    assert await record.logs("r1", 0) == []


async def test_artifacts_are_stored_by_content(record: SqlRecord) -> None:
    first = await record.put_artifact("r1", b"same", NOW)
    assert await record.put_artifact("r2", b"same", NOW) == first
    assert first.startswith("sha256:")
    assert await record.get_artifact(first) == b"same"
    assert await record.get_artifact(await record.put_artifact("r1", b"", NOW)) == b""
    for unknown in ("sha256:" + "0" * 64, "../../etc/passwd", "sha256:..", ""):
        with pytest.raises(NotFoundError):
            await record.get_artifact(unknown)


async def test_a_damaged_artifact_is_not_handed_out(record: SqlRecord) -> None:
    artifact = await record.put_artifact("r1", b"good", NOW)
    if record._dialect.far:
        await record._write(lambda tx: tx.run("UPDATE artifact_chunks SET data = ?", b"evil"))
    else:
        assert not list((record.files.folder / "new").iterdir())
        record.files.path(artifact).write_bytes(b"evil")
    with pytest.raises(RecordError, match="damaged"):
        await record.get_artifact(artifact)


async def test_a_large_artifact_is_stored_whole_or_not_at_all(record: SqlRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 1_000)
    data = os.urandom(7_500)
    artifact = await record.put_artifact("r1", data, NOW)
    assert await record.get_artifact(artifact) == data
    if record._dialect.far:
        await record._write(lambda tx: tx.run("DELETE FROM artifact_chunks WHERE n > 5"))
        with pytest.raises(NotFoundError):
            await record.get_artifact(artifact)
        assert await record.put_artifact("r2", data, NOW) == artifact, "what is missing comes again"
        assert await record.get_artifact(artifact) == data
    await record.prune(ended_before_ms=0, now_ms=NOW + 10**9, limit=1)
    assert await record.get_artifact(artifact) == data, "runs refer to it"
    await record._write(lambda tx: tx.run("DELETE FROM artifact_runs"))
    await record.prune(ended_before_ms=0, now_ms=NOW + 10**9, limit=1)
    with pytest.raises(NotFoundError):
        await record.get_artifact(artifact)
    assert await record._write(lambda tx: tx.all("SELECT id FROM artifact_chunks")) == []


async def test_artifacts_of_memory_go_with_it() -> None:
    record = SqlRecord()
    await record.open()
    await record.put_artifact("r1", b"x", NOW)
    folder = str(record.files.folder)
    assert os.path.exists(folder)  # noqa: ASYNC240
    await record.close()
    assert not os.path.exists(folder)  # noqa: ASYNC240


async def test_what_a_dead_process_left_half_written_is_swept(tmp_path: Path) -> None:
    record = SqlRecord(tmp_path / "skep.db")
    await record.open()
    await record.put_artifact("r1", b"x", NOW)
    old, new = (record.files.folder / "new" / name for name in ("old", "new"))
    for file, age_s in ((old, 200_000), (new, 10)):
        file.touch()
        os.utime(file, (NOW // 1_000 - age_s,) * 2)
    await record.prune(ended_before_ms=0, now_ms=NOW, limit=1)
    assert os.listdir(record.files.folder / "new") == ["new"]
    await record.close()


async def test_logs_of_a_run_are_read_on_from_a_position(record: SqlRecord) -> None:
    def chunk(task: int, attempt: int, offset: int) -> LogChunk:
        return LogChunk("r1", task, attempt, "out", offset, NOW, f"{task}/{attempt}/{offset}".encode())

    told = [chunk(0, 1, 0), chunk(1, 1, 0), chunk(0, 2, 0), chunk(2, 1, 0), chunk(0, 2, 5)]
    await record.append_logs([LogChunk("r0", 0, 1, "out", 0, NOW, b"another run's")])
    for one in told:
        await record.append_logs([one])
    stream = await record.log_stream("r1")
    assert [found for _, found in stream] == told
    positions = [position for position, _ in stream]
    assert positions == sorted(positions)
    assert await record.log_stream("r1", after=positions[1]) == stream[2:]
    assert await record.log_stream("r1", after=positions[1], limit=1) == stream[2:3]
    assert await record.log_stream("r1", attempt=2) == [stream[2], stream[4]]
    for tasks in ([0, 2], [0, 2, *range(9, 500)]):  # read by the task, and by the run
        assert await record.log_stream("r1", tasks) == [stream[0], *stream[2:]]
        assert await record.log_stream("r1", tasks, attempt=1, after=positions[0]) == [stream[3]]
        assert await record.log_stream("r1", tasks, after=positions[2], limit=1) == [stream[3]]
    assert await record.log_stream("r1", [7]) == []

"""The link between a node and its server, over a real socket: what is lost on the way is said again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed

from skep.errors import (
    ConflictError,
    EngineUnavailableError,
    RecordUnavailableError,
    RefusedError,
    SkepError,
    StaleEpochError,
    SupersededError,
)
from skep.model.node import Adopted, LockGrant, NodeInfo, Outcome, Stop
from skep.model.run import Claim, Token
from skep.node import frames, unrecorded
from skep.node.attempt import Attempt
from skep.node.frames import PROTOCOL, Hello, Welcome, messages
from skep.server import connection
from tests.server.links import FakeWork, Joined, Served, grant


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    return folder / "skep.sock"


@pytest.fixture
async def served(path: Path) -> AsyncIterator[Served]:
    made = await Served(path, FakeWork(), back_s=0.2, all_back_s=0.4).start()
    yield made
    await made.stop()


async def again(old: Served, work: FakeWork, **given: Any) -> Served:
    """The next life of a server."""
    await old.stop()
    return await Served(old.path, work, **given).start()


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  of a change in the node itself nobody tells
            await asyncio.sleep(0.005)


def said(message: str | bytes) -> list[Any]:
    assert isinstance(message, bytes)
    return frames.from_server.decode(message)


async def test_grants_come_and_outcomes_are_kept_until_they_are_recorded(served: Served) -> None:
    work = served.work
    async with Joined(served.path) as n:
        work.give(grant("a", 1), grant("b", 2))
        await n.hands.until(lambda: len(n.hands.attempts) == 2)
        n.hands.attempts["a"].succeed(b"1")
        await work.until(lambda: work.outcomes)
        assert [(o.token, o.output) for o in work.outcomes] == [(Token(7, 1), b"1")]
        assert n.link.unrecorded == 1
        work.record()
        await until(lambda: n.link.unrecorded == 0)


async def test_an_outcome_is_said_again_when_the_connection_was_cut_before_it_was_recorded(served: Served) -> None:
    work = served.work
    async with Joined(served.path) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        n.hands.attempts["a"].succeed(b"1")
        await work.until(lambda: work.outcomes)
        served.links.connections["n"].cut()
        await work.until(lambda: len(work.outcomes) == 2)
        assert work.outcomes[0] == work.outcomes[1]
        assert not any(held or outcomes for held, outcomes in work.presented), "the engine knew it all the time"
        work.record()
        await until(lambda: n.link.unrecorded == 0)
        work.give(grant("b", 2))
        await n.hands.until(lambda: "b" in n.hands.attempts)
        assert not work.retired


async def test_a_new_engine_is_shown_what_the_node_holds_and_gives_new_tokens(served: Served) -> None:
    async with Joined(served.path, beat_s=0.05) as n:
        served.work.give(grant("run", 1, claims=(Claim("lock:default:x", 1, 1),)), grant("done", 2))
        await n.hands.until(lambda: len(n.hands.attempts) == 2)
        n.hands.attempts["done"].succeed(b"2")
        await served.work.until(lambda: served.work.outcomes)
        work = FakeWork(epoch=8)
        second = await again(served, work)
        await work.until(lambda: work.presented)
        ((held, outcomes),) = work.presented
        assert [(one.grant.name, one.grant.token, one.grant.claims[0].key) for one in held] == [
            ("run", Token(7, 1), "lock:default:x")
        ]
        assert [(o.token, o.output) for o in outcomes] == [(Token(7, 2), b"2")]
        assert n.link.unrecorded == 1, "it is applied, but not recorded"
        work.record()
        await until(lambda: n.link.unrecorded == 0)

        work.answers["load_checkpoint"] = b"half"
        attempt = n.hands.attempts["run"]
        asked = asyncio.create_task(n.node.call(attempt, "load_checkpoint"))
        await work.until(lambda: len(work.beats) > 2)
        assert not work.asked, "the engine does not know the lease yet"
        work.give(Adopted(Token(7, 1), Token(8, 3)))
        assert await asked == b"half"
        assert work.asked == [("load_checkpoint", ("run-1", 1, Token(8, 3)))]
        assert attempt.grant.token == Token(7, 1), "the task goes on under the token that it saw first"
        await work.until(lambda: Token(8, 3) in work.beats[-1].leases)
        attempt.succeed(b"1")
        await work.until(lambda: work.outcomes)
        assert [(o.token, o.output) for o in work.outcomes] == [(Token(8, 3), b"1")]
        await second.stop()


async def test_more_than_one_message_may_hold_is_presented_in_parts(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded, "MOST_BYTES", 3_000)
    async with Joined(served.path, beat_s=0.05) as n:
        served.work.give(*(grant(f"t{number}", number) for number in range(1, 6)))
        await n.hands.until(lambda: len(n.hands.attempts) == 5)
        await served.stop()
        for number in range(1, 5):
            n.hands.attempts[f"t{number}"].succeed(b"1" * 2_000)
        await until(lambda: n.link.unrecorded == 4)
        work = FakeWork(epoch=8)
        second = await again(served, work)
        await work.until(lambda: work.complete)
        assert [(len(held), [o.token.n for o in outcomes]) for held, outcomes in work.presented] == [
            (0, [1, 2]),
            (1, [3, 4]),
        ]
        work.record()
        await until(lambda: n.link.unrecorded == 0)
        n.hands.attempts["t5"].succeed(b"5")
        await work.until(lambda: len(work.presented) == 3)
        work.record()
        await until(lambda: n.link.unrecorded == 0)
        await second.stop()


async def test_a_second_restart_finds_the_token_of_the_first(served: Served) -> None:
    async with Joined(served.path) as n:
        served.work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        work = FakeWork(epoch=8)
        second = await again(served, work)
        await work.until(lambda: work.presented)
        work.record()
        work.give(Adopted(Token(7, 1), Token(8, 1)))
        await until(lambda: n.link._tokens.now(Token(7, 1)) == Token(8, 1))
        third_work = FakeWork(epoch=9)
        third = await again(second, third_work)
        await third_work.until(lambda: third_work.presented)
        assert [one.grant.token for one in third_work.presented[0][0]] == [Token(8, 1)]
        third_work.give(Adopted(Token(8, 1), Token(9, 1)), Stop(Token(9, 1), "cancel"))
        await n.hands.until(lambda: n.hands.stopped)
        await third.stop()


async def test_a_superseded_attempt_ends_without_a_report(served: Served) -> None:
    work = served.work
    async with Joined(served.path) as n:
        work.give(grant("a", 1), Stop(Token(7, 1), "superseded"))
        await n.hands.until(lambda: n.hands.stopped)
        assert n.node.leases() == []
        work.give(grant("b", 2))
        await n.hands.until(lambda: "b" in n.hands.attempts)
        n.hands.attempts["b"].succeed()
        await work.until(lambda: work.outcomes)
        assert [o.token.n for o in work.outcomes] == [2]


async def test_a_lock_waited_for_is_asked_for_again_after_a_restart(served: Served) -> None:
    async with Joined(served.path) as n:
        served.work.answers["claim"] = "waiting"
        served.work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        claimed = asyncio.create_task(n.node.call(n.hands.attempts["a"], "claim", "db", 5, 60_000, True))
        await served.work.until(lambda: served.work.asked)
        work = FakeWork(epoch=8)
        work.answers["claim"] = "waiting"
        second = await again(served, work)
        await work.until(lambda: work.presented)
        work.give(Adopted(Token(7, 1), Token(8, 1)))
        await work.until(lambda: work.asked)
        assert work.asked[0] == ("claim", ("run-1", 1, Token(8, 1), "db", 5, 60_000, True))
        work.give(LockGrant(Token(8, 1), "lock:default:db"))
        assert await claimed == "ok"
        assert [(lock.key, lock.units) for lock in n.node.held()[0].locks] == [("db", 5)]
        await second.stop()


async def test_questions_wait_through_a_restart_and_no_longer_than_their_limit(served: Served) -> None:
    async with Joined(served.path, ask_s=0.3) as n:
        served.work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        attempt = n.hands.attempts["a"]
        await served.stop()
        with pytest.raises(SkepError, match="has not answered for"):
            await n.node.call(attempt, "save_checkpoint", b"1")
        n.link._questions._limit_s = 60
        asked = asyncio.create_task(n.link.put_artifact("run-1", b"x"))
        work = FakeWork(epoch=8)
        second = await Served(served.path, work).start()
        assert await asked == "artifact-1"
        await second.stop()


async def test_errors_keep_their_kind(served: Served) -> None:
    work = served.work
    async with Joined(served.path) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        attempt = n.hands.attempts["a"]
        for error in (ConflictError("no"), SupersededError("gone"), ValueError("odd")):
            work.answers["put_state"] = error
            with pytest.raises(type(error) if isinstance(error, SkepError) else SkepError, match=str(error)):
                await n.node.call(attempt, "put_state", "k", b"1", 0, None)


async def test_a_question_is_asked_again_while_a_database_is_away(served: Served) -> None:
    work = served.work
    async with Joined(served.path) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        attempt = n.hands.attempts["a"]
        for away in (RecordUnavailableError("away"), EngineUnavailableError("away"), StaleEpochError("anew")):
            work.answers["put_state"] = away
            before = len(work.asked)
            asked = asyncio.create_task(n.node.call(attempt, "put_state", "k", b"1", 0, None))
            await work.until(lambda before=before: len(work.asked) > before + 1)  # type: ignore[misc]
            work.answers["put_state"] = 7
            assert await asked == 7


async def test_an_output_of_64_mib_passes_and_beats_go_on(served: Served) -> None:
    work = served.work
    async with Joined(served.path, beat_s=0.02) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        output = b'"' + os.urandom(1).hex().encode() * (32 * 1024 * 1024 - 1) + b'"'
        n.hands.attempts["a"].succeed(output)
        await work.until(lambda: work.outcomes)
        assert work.artifacts == [output]
        assert work.outcomes[0].output == b"@artifact-1"
        assert await n.link.get_artifact("artifact-1") == output
        assert not work.retired


async def test_logs_and_progress_arrive(served: Served) -> None:
    work = served.work
    async with Joined(served.path) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        n.hands.host.write_log(n.hands.attempts["a"], "out", b"hello\n")
        n.hands.host.show_progress(n.hands.attempts["a"], 1, 2, "half")
        await work.until(lambda: work.chunks and work.shown)
        assert (work.chunks[0].data, work.shown[0].message) == (b"hello\n", "half")


async def test_a_node_that_does_not_come_back_is_lost_and_one_that_does_is_not(served: Served) -> None:
    work = served.work
    async with Joined(served.path, "a"), Joined(served.path, "b") as b:
        await b.link.close()
        served.links.connections["a"].cut()
        await work.until(lambda: work.retired)
        assert work.retired == [("b", True)]
        assert work.registered == {"a": 1}


async def test_a_node_that_leaves_in_good_order_is_not_lost(served: Served) -> None:
    async with Joined(served.path):
        pass
    assert served.work.retired == [("n", False)]


async def test_a_claim_that_was_too_long_on_its_way_is_not_begun(served: Served) -> None:
    work = served.work
    async with Joined(served.path, beat_s=0.05, fence_s=0.3) as n:
        await work.until(lambda: len(work.beats) > 1)

        async def silence(*_: Any) -> None:
            await asyncio.Event().wait()

        work.beat = silence  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(20):
            while not n.node._is_late():  # noqa: ASYNC110  only time makes it so
                await asyncio.sleep(0.01)
        work.give(grant("shared", 1, claims=(Claim("lock", 1, 1),)), grant("own", 2))
        await n.hands.until(lambda: "own" in n.hands.attempts)
        assert "shared" not in n.hands.attempts
        assert Token(7, 1) not in n.node.leases(), "not listed, it comes again"


async def test_fleet_wide_claims_end_with_the_beats_and_other_attempts_go_on(served: Served) -> None:
    async with Joined(served.path, beat_s=0.05, fence_s=0.3) as n:
        served.work.give(grant("free", 1), grant("locked", 2, claims=(Claim("lock:default:x", 1, 1),)))
        await n.hands.until(lambda: len(n.hands.attempts) == 2)
        await served.stop()
        await n.hands.until(lambda: n.hands.stopped)
        assert n.hands.stopped == ["locked"]
        assert n.node.leases() == [Token(7, 1)]
        assert n.link.unrecorded == 0


async def test_a_lock_is_presented_until_its_attempt_has_really_ended(served: Served) -> None:
    async with Joined(served.path, beat_s=0.05, fence_s=0.3) as n:
        n.hands.slow = True
        served.work.give(grant("free", 1), grant("locked", 2, claims=(Claim("lock:default:x", 1, 1),)))
        await n.hands.until(lambda: len(n.hands.attempts) == 2)
        await served.stop()
        await n.hands.until(lambda: n.hands.stopped)
        work = FakeWork(epoch=8)
        second = await again(served, work)
        await work.until(lambda: work.presented)
        assert {one.grant.name for one in work.presented[0][0]} == {"free", "locked"}
        work.give(Adopted(Token(7, 2), Token(8, 3)))
        await work.until(lambda: Token(8, 3) in work.beats[-1].leases)
        n.hands.attempts["locked"].succeed()
        await work.until(lambda: Token(8, 3) not in work.beats[-1].leases)
        assert not work.outcomes, "it is returned, and begins again"
        await second.stop()


async def test_a_beat_lists_what_is_held_and_what_is_not_recorded(served: Served) -> None:
    work = served.work
    async with Joined(served.path, beat_s=0.02) as n:
        work.give(grant("a", 1), grant("b", 2))
        await n.hands.until(lambda: len(n.hands.attempts) == 2)
        n.hands.attempts["a"].succeed()
        await work.until(lambda: work.outcomes)
        seen = len(work.beats)
        await work.until(lambda: len(work.beats) > seen + 1)
        assert sorted(work.beats[-1].leases) == [Token(7, 1), Token(7, 2)]
        assert work.beats[-1].seen == 2
        work.record()
        await work.until(lambda: work.beats[-1].leases == (Token(7, 2),))


async def test_a_node_that_was_given_up_is_admitted_anew(served: Served) -> None:
    work = served.work
    async with Joined(served.path, beat_s=0.02) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        work.inbox.clear()
        work.registered.clear()
        await work.until(lambda: len(work.presented) == 2)
        assert [one.grant.name for one in work.presented[1][0]] == ["a"]
        work.give(Stop(Token(7, 1), "superseded"))
        await n.hands.until(lambda: n.hands.stopped)


async def test_leases_of_the_same_engine_are_not_presented_again(served: Served) -> None:
    work = served.work
    work.events = 1  # the record is behind: that the node has come is not recorded yet
    async with Joined(served.path) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        served.links.connections["n"].cut()
        await work.until(lambda: len(work.presented) == 2)
        assert work.presented == [([], [])] * 2
        assert work.expected == ["n"], "it joined once"
        n.hands.attempts["a"].succeed()
        await work.until(lambda: work.outcomes)


async def test_a_node_whose_connection_is_cut_before_it_is_let_in_has_not_come(served: Served) -> None:
    """Whoever waits for it would go on without what it has."""
    async with Joined(served.path, beat_s=0.05) as n:
        served.work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        work = FakeWork(epoch=8)
        work.lets_in.clear()
        served.links.serve_for(work)  # type: ignore[arg-type]
        await work.until(lambda: work.presented)
        for times in (2, 3):
            served.links.connections["n"].cut()
            await work.until(lambda times=times: len(work.presented) == times)  # type: ignore[misc]
        assert [[one.grant.token for one in held] for held, _ in work.presented] == [[Token(7, 1)]] * 3, (
            "it shows all each time"
        )
        assert work.expected == ["n"], "it joined once"
        await work.until(lambda: work.beats)
        assert work.coming == {"n"}
        work.give(Adopted(Token(7, 1), Token(8, 1)))
        work.lets_in.set()
        await work.until(lambda: work.beats[-1].leases == (Token(8, 1),))
        assert not work.retired


async def test_who_says_hello_when_the_engine_was_just_opened_anew_is_served_for_that_one(served: Served) -> None:
    work = FakeWork(epoch=8)
    async with served.connect() as opened:
        await until(lambda: served.links._open)
        served.links.serve_for(work)  # type: ignore[arg-type]
        await opened.send(frames.whole([Hello(PROTOCOL, NodeInfo("n"), 0, 0)]))
        assert said(await opened.recv())[0].epoch == 8
        await opened.send(frames.whole([frames.Beat(1, [], 0)]))
        await work.until(lambda: work.beats)
        assert not served.work.beats


async def test_nobody_is_admitted_to_an_engine_that_is_over(served: Served) -> None:
    served.work.admits.clear()
    work = FakeWork(epoch=8)
    n = Joined(served.path)
    opening = asyncio.create_task(n.node.open())
    await served.work.until(lambda: served.work.calls)
    served.links.serve_for(work)  # type: ignore[arg-type]
    served.work.admits.set()
    await opening
    await work.until(lambda: work.complete)
    assert n.link.epoch == 8
    assert not served.work.presented
    await n.node.close(give_back=True)


async def test_a_later_start_takes_the_place_of_an_earlier_one(served: Served) -> None:
    async with Joined(served.path, incarnation=1) as first, Joined(served.path, incarnation=2):
        assert "later start" in await asyncio.wait_for(first.link.ended, 10)
        with pytest.raises(RefusedError, match="later start"):
            await Joined(served.path, incarnation=1).node.open()


async def test_another_protocol_is_refused_with_both_named(served: Served) -> None:
    async with served.connect() as opened:
        for message in messages([Hello(PROTOCOL + 2, NodeInfo("n"), skep="9.9")]):
            await opened.send(message)
        (refused,) = said(await opened.recv())
        assert (refused.version, refused.asked) == (PROTOCOL, PROTOCOL + 2)
        assert f"protocol {PROTOCOL} " in refused.reason
        assert f"protocol {PROTOCOL + 2} (Skep 9.9)" in refused.reason
        with pytest.raises(ConnectionClosed):
            await opened.recv()
    async with served.connect() as opened:
        await opened.send(next(messages([Hello(PROTOCOL + 1, NodeInfo("n"))])))
        assert isinstance(said(await opened.recv())[0], Welcome)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xc1\xff",
        msgspec.msgpack.encode([["Nonsense", 1]]),
        msgspec.msgpack.encode([["Report", "x"]]),
        msgspec.msgpack.encode([["Beat", 1, [[1, 2]], 0]]),
        b"\x91" * 100_000,
        "text",
    ],
)
async def test_garbage_is_told_and_cut_and_logged_once(
    served: Served, garbage: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served.connect() as opened:
        await opened.send(garbage)
        (refused,) = said(await opened.recv())
        assert isinstance(refused, frames.Refused)
        with pytest.raises(ConnectionClosed):
            await opened.recv()
    assert len([record for record in caplog.records if record.name == "skep.server.connection"]) == 1
    assert served.work.registered == {}


async def test_frames_without_end_are_cut(served: Served) -> None:
    async with served.connect() as opened:
        await opened.send(next(messages([Hello(PROTOCOL, NodeInfo("n"))])))
        part = msgspec.msgpack.encode([frames.Part(b"\x00" * frames.PART, False)])

        async def flood() -> None:
            for _ in range(frames.MOST // frames.PART + 100):
                await opened.send(part)
            while True:
                await opened.recv()

        with pytest.raises(ConnectionClosed):
            await flood()


async def test_stops_of_attempts_carry_their_reason(served: Served) -> None:
    work = served.work
    async with Joined(served.path) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        attempt: Attempt = n.hands.attempts["a"]
        work.give(Stop(Token(7, 1), "deadline"))
        await n.hands.until(lambda: n.hands.stopped)
        assert attempt.stopped == "deadline"


async def test_a_grant_that_the_node_has_not_taken_yet_is_listed_and_presented(served: Served) -> None:
    work = served.work
    async with Joined(served.path, beat_s=0.02) as n:
        await n.node.loops[0].stop()
        work.give(grant("a", 1))
        await work.until(lambda: work.beats and work.beats[-1].seen == 1)
        assert work.beats[-1].leases == (Token(7, 1),)
        next_work = FakeWork(epoch=8)
        second = await again(served, next_work)
        await next_work.until(lambda: next_work.presented)
        assert [one.grant.name for one in next_work.presented[0][0]] == ["a"]
        await second.stop()


@pytest.mark.parametrize(("kept", "done"), [((b"1", 1), True), ((b"2", 1), False), ((b"1", 2), False)])
async def test_a_put_whose_answer_was_lost_is_no_conflict_with_itself(
    served: Served, kept: tuple[bytes, int], done: bool
) -> None:
    async with Joined(served.path) as n:
        served.work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        served.work.answers["put_state"] = asyncio.get_running_loop().create_future()
        put = asyncio.create_task(n.node.call(n.hands.attempts["a"], "put_state", "k", b"1", 0, 0))
        await served.work.until(lambda: served.work.asked)
        served.work.answers = {"put_state": ConflictError("version 1"), "get_state": kept}
        served.links.connections["n"].cut()
        if done:
            assert await put == 1
        else:
            with pytest.raises(ConflictError):
                await put


# -- who is who


async def test_two_nodes_with_one_name_are_told_apart(served: Served) -> None:
    async def node(identity: str, incarnation: int) -> Joined:
        joined = Joined(served.path, incarnation=incarnation)
        joined.node.info = msgspec.structs.replace(joined.node.info, identity=identity)
        return joined

    async with await node("a", 5) as first:
        for incarnation in (4, 5, 6):
            with pytest.raises(RefusedError, match=r"another node is named 'n'.*--name"):
                await (await node("b", incarnation)).node.open()
        assert served.work.registered == {"n": 5}
        assert first.link.connected
        async with await node("a", 6):  # the same one, started again
            assert "later start" in await asyncio.wait_for(first.link.ended, 10)
            assert served.work.registered == {"n": 6}


async def test_the_name_of_a_lost_node_is_free(served: Served) -> None:
    async with Joined(served.path) as first:
        served.work.identities["n"] = "a"
        await first.link.close()
        await served.work.until(lambda: served.work.retired == [("n", True)])
        second = Joined(served.path)
        second.node.info = msgspec.structs.replace(second.node.info, identity="b")
        async with second:
            assert served.work.registered == {"n": 1}


# -- nodes that lie


async def hello(served: Served, opened: Any) -> None:
    for message in messages([Hello(PROTOCOL, NodeInfo("n"))]):
        await opened.send(message)
    assert isinstance(said(await opened.recv())[0], Welcome)
    await opened.send(next(messages([frames.Present(1, [], [])])))
    await served.work.until(lambda: served.work.complete)


def outcome(number: int, task: int) -> Outcome:
    return Outcome("run-1", task, Token(7, number), 1, "succeeded", b"1")


async def test_an_outcome_of_another_nodes_attempt_changes_nothing(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    work = served.work
    work.elsewhere = {("run-1", 2): "m", ("run-1", 3): "n"}
    async with served.connect() as opened:
        await hello(served, opened)
        work.give(grant("mine", 1))
        await opened.recv()
        reported = [outcome(1, 1), outcome(2, 2), outcome(3, 3), outcome(4, 4)]
        await opened.send(next(messages([frames.Report(2, reported, 1)])))
        await work.until(lambda: len(work.outcomes) >= 3)
        assert [o.token.n for o in work.outcomes] == [1, 3, 4], "what nobody runs is for the engine to judge"
        work.record()
        heard = said(await opened.recv())
        assert [frame.number for frame in heard if isinstance(frame, frames.Recorded)], "and it is not said again"
    assert "attempts of other nodes" in caplog.text


async def test_outcomes_of_other_nodes_are_not_presented(served: Served) -> None:
    work = served.work
    work.elsewhere = {("run-1", 2): "m"}
    async with served.connect() as opened:
        await hello(served, opened)
        await opened.send(next(messages([frames.Present(2, [], [outcome(2, 2), outcome(5, 5)])])))
        await work.until(lambda: work.complete == 2)
    assert [o.token.n for o in work.outcomes] == [5]


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("load_checkpoint", []),
        ("save_checkpoint", [b"x"]),
        ("get_state", ["k"]),
        ("put_state", ["k", b"v", 0, None]),
        ("claim", ["db", 1, 1_000, False]),
    ],
)
async def test_nobody_asks_in_the_name_of_another_nodes_attempt(served: Served, verb: str, args: list[Any]) -> None:
    served.work.elsewhere = {("run-1", 2): "m"}
    async with served.connect() as opened:
        await hello(served, opened)
        await opened.send(next(messages([frames.Ask(9, verb, ["run-1", 2, Token(7, 2), *args])])))
        answers: list[frames.Answer] = []
        while not answers:
            answers = [frame for frame in said(await opened.recv()) if type(frame) is frames.Answer]
        answer = answers[0]
        assert answer.error is not None
        assert answer.error[0] == "SupersededError"
    assert served.work.asked == []


async def test_nobody_frees_the_lock_of_another_nodes_attempt(served: Served) -> None:
    work = served.work
    async with served.connect() as opened:
        await hello(served, opened)
        work.give(grant("mine", 1))
        await opened.recv()
        asks = [frames.Ask(number, "release", ["run-1", Token(7, number), "db"]) for number in (2, 1)]
        await opened.send(next(messages(asks)))
        await work.until(lambda: work.asked)
    assert work.asked == [("release", ("run-1", Token(7, 1), "db"))]


async def test_what_a_node_was_given_is_its_own_on_the_next_connection(served: Served) -> None:
    work = served.work
    work.events = 1  # the record is behind: the node presents what it has again
    async with Joined(served.path) as n:
        work.give(grant("a", 1))
        await n.hands.until(lambda: n.hands.attempts)
        served.links.connections["n"].cut()
        await work.until(lambda: len(work.presented) == 2)
        await n.link.release("run-1", Token(7, 1), "db")
        assert work.asked == [("release", ("run-1", Token(7, 1), "db"))]


# -- nodes that do not read, or say nothing


async def test_what_a_node_asks_for_and_does_not_read_is_not_gathered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNSENT", 1 << 20)
    work = served.work
    work.artifacts.append(b"x" * (1 << 20))
    got = 0
    whole = work.get_artifact

    async def count(artifact: str) -> bytes:
        nonlocal got
        got += 1
        return await whole(artifact)

    monkeypatch.setattr(work, "get_artifact", count)
    async with served.connect() as opened:
        await hello(served, opened)
        asks = [frames.Ask(number, "get_artifact", ["artifact-1"]) for number in range(200)]
        await opened.send(next(messages(asks)))
        seen = -1
        while seen != got:  # until it stands still
            seen = got
            await asyncio.sleep(0.2)
        assert got < 100
        answers: list[frames.Answer] = []
        reader = frames.Reader(frames.from_server)
        async with asyncio.timeout(20):
            while len(answers) < 200:
                answers += [frame for frame in reader.read(await opened.recv(decode=False)) if type(frame) is frames.Answer]
        assert {answer.number for answer in answers} == set(range(200))


async def test_who_says_nothing_is_cut(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HELLO_S", 0.2)
    async with served.connect() as opened:
        (refused,) = said(await opened.recv())
        assert "Hello" in refused.reason
        with pytest.raises(ConnectionClosed):
            await opened.recv()


async def test_a_stranger_may_not_send_much(served: Served) -> None:
    async with served.connect() as opened:
        part = msgspec.msgpack.encode([frames.Part(b"\x00" * frames.PART, False)])
        for _ in range(3):
            await opened.send(part)
        (refused,) = said(await opened.recv())
        assert "more than 1 MiB" in refused.reason

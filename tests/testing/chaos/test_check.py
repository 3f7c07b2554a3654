"""The checker finds each kind of fault in ledgers made by hand, and nothing where nothing is wrong."""

from __future__ import annotations

import msgspec

from skep.model.run import AttemptView
from skep.testing.chaos.check import Findings, check
from skep.testing.chaos.effects import Line
from skep.testing.chaos.ledger import Entry
from skep.testing.chaos.story import Story
from tests.testing.chaos.stories import RUN, closed, ended, entry, granted, line, story, told

GOOD = story(granted(1), closed(2, "succeeded", 1), ended(3))
DONE = [line("start"), line("end", at=2)]


def judge(found: Story | None, lines: list[Line] | None = None, *more: Entry, stuck: tuple[str, ...] = ()) -> Findings:
    return check([entry("accepted"), *more], DONE if lines is None else lines, {RUN: found}, stuck)


def only(found: list[str]) -> str:
    (text,) = found
    return text


def test_what_went_well() -> None:
    assert judge(GOOD) == Findings(accepted=1, finished=1)


def test_a_run_that_nobody_knows_is_lost() -> None:
    found = judge(None)
    assert "nobody knows it" in only(found.lost)
    assert found.bad


def test_a_run_that_does_not_end_is_stuck() -> None:
    found = judge(story(granted(1), state="running", task="running"), [line("start")])
    assert "a running" in only(found.stuck)
    assert (found.lost, found.stale, found.finished) == ([], [], 0)


def test_a_run_that_stood_still_for_too_long_was_stuck_though_it_ended() -> None:
    assert "for too long" in only(judge(GOOD, stuck=(RUN,)).stuck)


def test_an_end_with_a_task_that_has_not_ended_is_a_loss() -> None:
    assert "not all of it: a ready" in only(judge(story(ended(1), task="ready"), []).lost)


def test_an_end_that_was_told_and_is_not_so_any_more() -> None:
    was = {"a": "succeeded 1-1"}
    assert not judge(GOOD, None, entry("ended", 4, state="succeeded", outcomes=was)).bad
    again = story(granted(5), closed(6, "succeeded", 5), ended(7), token="1-5")
    lines = [line("start", "1-5"), line("end", "1-5")]
    found = judge(again, lines, entry("ended", 4, state="succeeded", outcomes=was))
    assert only(found.lost) == "run r: a was told as succeeded 1-1, and is succeeded 1-5"
    found = judge(story(granted(1), state="running", task="running"), None, entry("ended", 4, state="succeeded", outcomes={}))
    assert only(found.lost) == "run r was told to have succeeded, and is running"


def test_a_cancel_that_was_forgotten() -> None:
    late = msgspec.structs.replace(GOOD, finished_ms=60_000)
    assert "succeeded 55000 ms later" in only(judge(late, None, entry("cancelled", 5)).lost)
    assert not judge(GOOD, None, entry("cancelled", 5)).bad, "it was about to end"


def test_a_decision_that_was_forgotten() -> None:
    said = entry("decided", 1, task="a", approve=True, by="p")
    kept = msgspec.structs.replace(GOOD, tasks=[msgspec.structs.replace(GOOD.tasks[0], output={"approved": True, "by": "p"})])
    assert not judge(kept, None, said).bad
    other = msgspec.structs.replace(said, by="q")
    assert "q decided a" in only(judge(kept, None, other).lost)
    assert "p decided a" in only(judge(kept, None, msgspec.structs.replace(said, approve=False)).lost)


def test_a_task_that_failed_by_what_befell_the_fleet_is_a_loss() -> None:
    failed = story(granted(1), closed(2, "failed", 1), ended(3), state="failed", task="failed")
    assert not judge(failed, [line("start")]).bad
    error = {"type": "SkepError", "message": "the engine is gone"}
    spoiled = msgspec.structs.replace(failed, tasks=[msgspec.structs.replace(failed.tasks[0], error=error)])
    assert "not by itself: SkepError: the engine is gone" in only(judge(spoiled, [line("start")]).lost)


def test_the_outcome_of_an_attempt_that_does_not_hold_the_task_is_stale() -> None:
    found = judge(story(granted(1), closed(2, "returned", 1), granted(3, 2), closed(4, "succeeded", 1), ended(5)))
    assert "under token 1-1 while 1-3 held the task" in only(found.stale)


def test_the_output_of_another_attempt_is_stale() -> None:
    events = granted(1), closed(2, "returned", 1), granted(3, 2), closed(4, "succeeded", 3, 2), ended(5)
    lines = [*DONE, line("start", "1-3", at=3)]
    found = judge(story(*events), lines)
    assert "a succeeded under token 1-3 with the output of attempt 1, token 1-1" in only(found.stale)
    assert found.again == 1


def test_an_adopted_attempt_has_two_tokens() -> None:
    """Its task knows the first, through however many openings."""
    adopted = [
        told(1, "adopted", 2, attempt=1, token=1, token_epoch=1),
        told(1, "adopted", 3, attempt=1, token=1, token_epoch=2),
    ]
    found = judge(story(granted(1), *adopted, closed(2, "succeeded", 1, epoch=3), ended(3, 3)))
    assert found == Findings(accepted=1, finished=1)


def test_two_outcomes_of_one_task() -> None:
    found = judge(story(granted(1), closed(2, "succeeded", 1), told(3, "failed"), ended(4)))
    assert "another outcome" in found.stale[0]


def test_a_task_that_goes_on_after_its_outcome() -> None:
    found = judge(
        story(
            granted(1),
            closed(2, "succeeded", 1),
            granted(3, 2),
            told(4, "returned", attempt=2, token=3, token_epoch=1),
            ended(5),
        )
    )
    assert any("goes on after its outcome" in text for text in found.stale)


def test_something_happens_after_the_end_of_the_run() -> None:
    found = judge(story(granted(1), closed(2, "succeeded", 1), ended(3), ended(4)))
    assert "it ended twice" in only(found.stale)
    found = judge(story(granted(1), ended(2), closed(3, "succeeded", 1)))
    assert "something happened after its end" in only(found.stale)


def test_a_task_that_began_again_under_a_later_token_is_stale() -> None:
    found = judge(GOOD, [*DONE, line("start", "1-4", at=3)])
    assert "(event 1-2) and began again under token 1-4" in only(found.stale)


def test_an_execution_that_did_not_count_is_a_duplicate() -> None:
    """A node that stood still begins what it was once given, or does to its end what others did meanwhile: it may."""
    events = granted(1), closed(2, "returned", 1), granted(3, 2), closed(4, "succeeded", 3, 2), ended(5)
    lines = [line("start", "1-3"), line("end", "1-3", at=2), line("start", "1-1", at=8), line("end", "1-1", at=9)]
    found = judge(story(*events, token="1-3"), lines)
    assert found == Findings(accepted=1, finished=1, again=1)


def test_retries_are_no_duplicates() -> None:
    events = granted(1), closed(2, "retrying", 1), granted(3, 2), closed(4, "succeeded", 3, 2), ended(5)
    lines = [line("start", "1-1"), line("start", "1-3", at=2), line("end", "1-3", at=3)]
    assert judge(story(*events, token="1-3"), lines) == Findings(accepted=1, finished=1)


def test_a_success_without_an_effect() -> None:
    assert "never came to its end" in only(judge(GOOD, [line("start")]).stale)


def test_a_lock_that_two_had() -> None:
    held = [line("held", "1-1", at=1, more="k"), line("held", "1-2", at=2, more="k"), line("held", "1-1", at=3, more="k")]
    assert "before" in only(judge(GOOD, [*DONE, *held]).stale)
    assert not judge(GOOD, [*DONE, *held[:2]]).bad, "one after the other"
    assert not check([entry("accepted")], [*DONE, *held], {RUN: GOOD}, one_machine=False).bad, "clocks are not compared"


def test_a_checkpoint_that_went_back() -> None:
    lines = [line("loaded", "1-1", more="0"), line("saved", "1-1", more="4"), line("loaded", "1-3", more="3")]
    assert "had saved 4 and began again at 3" in only(judge(GOOD, [*DONE, *lines]).stale)
    late = [line("saved", "1-3", more="9"), line("loaded", "1-1", more="0")]
    assert not judge(GOOD, [*DONE, *late]).bad, "an earlier attempt noted late what it had loaded before"


def test_children_are_looked_at_too() -> None:
    child = story(granted(1), closed(2, "succeeded", 1), closed(3, "succeeded", 1), ended(4))
    child.run = "child"
    found = check([entry("accepted")], DONE, {RUN: GOOD, "child": child})
    assert found.accepted == 1
    assert any(text.startswith("run child") for text in found.stale)


def test_the_last_attempt_is_what_is_compared() -> None:
    history = [AttemptView(1, "succeeded", "x", "1-1"), AttemptView(2, "lost", "y", "1-9")]
    changed = msgspec.structs.replace(GOOD.tasks[0], history=history)
    was = entry("ended", 4, state="succeeded", outcomes={"a": "succeeded 1-1"})
    assert "is succeeded 1-9" in only(judge(msgspec.structs.replace(GOOD, tasks=[changed]), None, was).lost)

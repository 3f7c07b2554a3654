"""Lists of runs: whatever is asked, the same as a plain loop over all runs gives, without a full scan."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.errors import NotFoundError, RefusedError
from skep.record import listing, migrations, runs, search
from skep.record.dialect import Row, Transaction
from skep.record.protocol import NewRun, RunFilter
from skep.record.sql import SqlRecord
from skep.record.sqlite import Sqlite, SqliteTransaction

LABELS: list[dict[str, str]] = [{}, {"team": "a"}, {"team": "Blue", "env": "prod"}, {"env": ""}, {"team": "a", "env": "dev"}]


@st.composite
def some_runs(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{draw(st.sampled_from(['aa', 'ab', 'cc']))}{n:03}",
            "workflow": draw(st.sampled_from(["build", "rebuild", "deploy"])),
            "namespace": draw(st.sampled_from(["default", "other"])),
            "labels": draw(st.sampled_from(LABELS)),
            "schedule": draw(st.sampled_from(["", "nightly"])),
            "parent": draw(st.sampled_from([None, ("aa000", 1)])),
            "accepted_ms": draw(st.integers(10, 14)),
            "state": draw(st.integers(0, 5)),
        }
        for n in range(draw(st.integers(0, 25)))
    ]


FILTERS = st.builds(
    RunFilter,
    namespace=st.sampled_from(["", "", "default", "other"]),
    states=st.sampled_from([(), (), (0, 1, 2), (3,), (4, 5)]),
    workflow=st.sampled_from(["", "", "build", "none"]),
    labels=st.sampled_from([{}, {}, {"team": "a"}, {"env": ""}, {"team": "a", "env": "dev"}, {"none": ""}]),
    search=st.sampled_from(["", "", "aa", "AB0", "build", "BLUE", "od", "aa001", "zz", "%", "e"]),
    schedule=st.sampled_from(["", "", "nightly"]),
    parent=st.sampled_from(["", "", "aa000"]),
    roots=st.sampled_from([False, False, True]),
    accepted_from_ms=st.sampled_from([0, 0, 12]),
    accepted_to_ms=st.sampled_from([0, 0, 13]),
)


def database(told: list[dict[str, Any]]) -> SqliteTransaction:
    tx = Sqlite(None).connect()
    tx.begin()
    migrations.ensure(tx)
    new = [
        NewRun(engine="e", definition=b"{}", digest="d", **{key: value for key, value in run.items() if key != "state"})
        for run in told
    ]
    assert runs.accept(tx, new) == [(run["id"], True) for run in told]
    for run in told:
        tx.run("UPDATE runs SET state = ? WHERE id = ?", run["state"], run["id"])
    return tx


def wanted(run: dict[str, Any], asked: RunFilter) -> bool:
    text = asked.search.casefold()
    return (
        (not asked.namespace or run["namespace"] == asked.namespace)
        and (not asked.states or run["state"] in asked.states)
        and (not asked.workflow or run["workflow"] == asked.workflow)
        and all(name in run["labels"] and value in ("", run["labels"][name]) for name, value in asked.labels.items())
        and (not asked.schedule or run["schedule"] == asked.schedule)
        and (not asked.parent or (run["parent"] or ("",))[0] == asked.parent)
        and (not asked.roots or run["parent"] is None)
        and run["accepted_ms"] >= asked.accepted_from_ms
        and (not asked.accepted_to_ms or run["accepted_ms"] < asked.accepted_to_ms)
        and (
            run["id"].startswith(text)
            or text in run["workflow"].casefold()
            or any(text in value.casefold() for value in run["labels"].values())
        )
    )


@settings(max_examples=150, deadline=None)
@given(told=some_runs(), asked=FILTERS, limit=st.integers(1, 7), looks=st.sampled_from([3, 1_000]), few=st.booleans())
def test_pages_together_are_what_a_plain_loop_finds(
    told: list[dict[str, Any]], asked: RunFilter, limit: int, looks: int, few: bool
) -> None:
    order = sorted(enumerate(told), key=lambda entry: (-entry[1]["accepted_ms"], -entry[0]))
    expected = [run["id"] for _, run in order if wanted(run, asked)]
    tx = database(told)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "LOOKS", looks)
        patch.setattr(search, "DISTINCT", 1_000 if few else 1)
        found, cursor = [], ""
        for _ in range(100):
            page = listing.page(tx, asked, limit, cursor)
            assert len(page.runs) <= limit
            found += [run.id for run in page.runs]
            cursor = page.cursor
            if not cursor:
                break
            assert page.runs or looks == 3, "only a page that looked at all it may is empty and goes on"
    tx.rollback()
    tx.close()
    assert found == expected
    assert cursor == ""


class Planned(SqliteTransaction):
    """Keeps the plan of every statement."""

    def __init__(self, tx: SqliteTransaction) -> None:
        super().__init__(tx._connection, tx.dialect)
        self.plans: list[str] = []

    def _plan(self, sql: str, values: tuple[Any, ...]) -> None:
        self.plans += [row[3] for row in self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]

    def one(self, sql: str, *values: Any) -> Row | None:
        self._plan(sql, values)
        return super().one(sql, *values)

    def all(self, sql: str, *values: Any) -> list[Row]:
        self._plan(sql, values)
        return super().all(sql, *values)

    def each(self, sql: str, *values: Any) -> Iterator[Row]:
        self._plan(sql, values)
        return super().each(sql, *values)


ONE: dict[str, Any] = {
    "namespace": "default",
    "states": (3, 4),
    "workflow": "build",
    "labels": {"team": "a"},
    "search": "b",
    "schedule": "nightly",
    "parent": "aa000",
    "accepted_to_ms": 20,
}


@pytest.mark.parametrize("asked", [(), *itertools.combinations(ONE, 1), *itertools.combinations(ONE, 2)], ids="+".join)
def test_no_list_scans_or_sorts_all_runs(asked: tuple[str, ...]) -> None:
    told = [
        {"id": f"aa00{n}", "workflow": "build", "labels": {"team": "a"}, "accepted_ms": 10 + n % 3, "state": 3}
        | {"schedule": "nightly", "parent": ("aa000", 0)}
        for n in range(8)
    ]
    tx = Planned(database(told))
    page = listing.page(tx, RunFilter(**{name: ONE[name] for name in asked}), 3, "")
    assert [run.id for run in page.runs] == ["aa005", "aa002", "aa007"]
    assert page.cursor
    page = listing.page(tx, RunFilter(**{name: ONE[name] for name in asked}), 3, page.cursor)
    assert [run.id for run in page.runs] == ["aa004", "aa001", "aa006"]
    whole = [plan for plan in tx.plans if plan.startswith("SCAN r") and "INDEX runs_accepted" not in plan]
    assert not whole, whole
    assert not [plan for plan in tx.plans if "TEMP B-TREE" in plan]
    tx.rollback()
    tx.close()


async def test_a_list_leaves_the_inputs_out_and_refuses_a_strange_cursor(ready_record: SqlRecord, new_run: Any) -> None:
    await ready_record.accept([new_run("r2", inputs=b'{"x":1}', parent=("r1", 3), depth=1, schedule="s", base="/b", due_ms=7)])
    (child,) = (await ready_record.list_runs(RunFilter(parent="r1"))).runs
    assert (child.id, child.inputs, child.parent, child.depth, child.schedule) == ("r2", b"", ("r1", 3), 1, "s")
    assert (await ready_record.run("r2")).base == "/b"
    for cursor in ("x", "1-", "1-2-3", "-1", "9" * 50):
        with pytest.raises(RefusedError, match="no cursor"):
            await ready_record.list_runs(RunFilter(), cursor=cursor)


async def test_a_run_is_found_by_the_beginning_of_its_id(ready_record: SqlRecord, new_run: Any) -> None:
    await ready_record.accept([new_run(id) for id in ("abc1", "abc2", "abd")])
    assert await ready_record.find_run("abd") == "abd"
    assert await ready_record.find_run(" ABC1") == "abc1"
    assert await ready_record.find_run("r") == "r1"
    with pytest.raises(RefusedError, match="abc1, abc2"):
        await ready_record.find_run("abc")
    for none in ("x", "", "abc11"):
        with pytest.raises(NotFoundError):
            await ready_record.find_run(none)


async def test_runs_are_counted_by_state(ready_record: SqlRecord, new_run: Any) -> None:
    await ready_record.accept([new_run("r2"), new_run("r3", namespace="n"), new_run("r4"), new_run("r5")])
    day = listing.DAY_MS

    def end(tx: Transaction) -> None:
        for id, at_ms in (("r4", day), ("r5", 3 * day)):
            tx.run("UPDATE runs SET state = 3, finished_ms = ? WHERE id = ?", at_ms, id)

    await ready_record._write(end)
    assert await ready_record.count_runs() == {0: 3, 3: 1}
    assert await ready_record.count_runs(now_ms=day + 1) == {0: 3, 3: 2}
    assert await ready_record.count_runs(now_ms=9 * day) == {0: 3}
    assert await ready_record.count_runs("n") == {0: 1}

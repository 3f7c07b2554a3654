"""The tables. A new record is created whole and stamped with `VERSION`; another version is refused with both named.

Times are milliseconds, 0 for none. Payloads are bytes and never looked into by SQL. In `tasks` and `attempts` the columns
after the state may be NULL, read as empty: a NULL in an upsert keeps what is there.
"""

from __future__ import annotations

from typing import Final

from skep.errors import RecordError
from skep.record.dialect import Transaction

VERSION: Final = 1

RANK: Final = "(CASE priority WHEN 0 THEN 5 ELSE priority END) DESC"
"""Runs by priority; 0 stands for none named, which is normal."""

UNFINISHED: Final = "state < 3"
"""Of a run. Written out, not bound, so that the partial indexes below are used."""

TABLES: Final = (
    "CREATE TABLE record_version (version {int} NOT NULL) {end}",
    "CREATE TABLE engines (id {text} PRIMARY KEY, epoch {int} NOT NULL, mark {int} NOT NULL, process {text} NOT NULL,"
    " embedded {int} NOT NULL) {keyed}",
    "CREATE TABLE definitions (digest {text} PRIMARY KEY, body {bytes} NOT NULL) {end}",
    "CREATE TABLE runs (id {text} PRIMARY KEY, engine {text} NOT NULL, workflow {text} NOT NULL, digest {text} NOT NULL,"
    " inputs {bytes} NOT NULL, namespace {text} NOT NULL, priority {int} NOT NULL, labels {bytes} NOT NULL,"
    " timeout_ms {int} NOT NULL, idempotency_key {text}, body_digest {text} NOT NULL, state {int} NOT NULL DEFAULT 0,"
    " reason {text} NOT NULL DEFAULT '', paused {int} NOT NULL DEFAULT 0, loaded {int} NOT NULL DEFAULT 0,"
    " command {int} NOT NULL DEFAULT 0, task_count {int} NOT NULL DEFAULT 0, accepted_ms {int} NOT NULL,"
    " started_ms {int} NOT NULL DEFAULT 0, finished_ms {int} NOT NULL DEFAULT 0) {end}",
    "CREATE INDEX runs_listed ON runs (namespace, accepted_ms)",
    "CREATE INDEX runs_digest ON runs (digest)",
    f"CREATE INDEX runs_unfinished ON runs (engine, {RANK}, accepted_ms) WHERE {UNFINISHED}",
    f"CREATE INDEX runs_commanded ON runs (engine) WHERE {UNFINISHED} AND command > 0",
    "CREATE INDEX runs_ended ON runs (finished_ms) WHERE state >= 3",
    "CREATE UNIQUE INDEX runs_key ON runs (namespace, idempotency_key) WHERE idempotency_key IS NOT NULL",
    "CREATE TABLE commands (run_id {text} NOT NULL, number {int} NOT NULL, verb {text} NOT NULL, data {bytes} NOT NULL,"
    " at_ms {int} NOT NULL, PRIMARY KEY (run_id, number)) {keyed}",
    # One row per run and transcribed batch: events `first` to `last` of that epoch that are this run's, as one JSON list.
    "CREATE TABLE events (run_id {text} NOT NULL, epoch {int} NOT NULL, first {int} NOT NULL, last {int} NOT NULL,"
    " count {int} NOT NULL, at_ms {int} NOT NULL, events {bytes} NOT NULL, PRIMARY KEY (run_id, epoch, first)) {keyed}",
    "CREATE TABLE rejected (engine {text} NOT NULL, epoch {int} NOT NULL, n {int} NOT NULL, error {text} NOT NULL,"
    " event {bytes} NOT NULL, PRIMARY KEY (engine, epoch, n)) {keyed}",
    "CREATE TABLE tasks (run_id {text} NOT NULL, idx {int} NOT NULL, state {int} NOT NULL, attempts {int}, node {text},"
    " reason {text}, started_ms {int}, finished_ms {int}, output {bytes}, error {bytes}, PRIMARY KEY (run_id, idx)) {keyed}",
    "CREATE TABLE attempts (run_id {text} NOT NULL, idx {int} NOT NULL, attempt {int} NOT NULL, state {text} NOT NULL,"
    " token_epoch {int}, token_n {int}, first_epoch {int}, first_n {int}, node {text}, granted_ms {int}, started_ms {int},"
    " finished_ms {int}, error {bytes}, PRIMARY KEY (run_id, idx, attempt)) {keyed}",
    "CREATE TABLE expansions (run_id {text} NOT NULL, parent {int} NOT NULL, first {int} NOT NULL, count {int} NOT NULL,"
    " PRIMARY KEY (run_id, parent)) {keyed}",
    "CREATE TABLE fences (run_id {text} NOT NULL, idx {int} NOT NULL, epoch {int} NOT NULL, n {int} NOT NULL,"
    " PRIMARY KEY (run_id, idx)) {keyed}",
    "CREATE TABLE checkpoints (run_id {text} NOT NULL, idx {int} NOT NULL, data {bytes} NOT NULL, at_ms {int} NOT NULL,"
    " PRIMARY KEY (run_id, idx)) {keyed}",
    "CREATE TABLE values_kept (namespace {text} NOT NULL, name {text} NOT NULL, value {bytes} NOT NULL,"
    " version {int} NOT NULL, expires_ms {int} NOT NULL, PRIMARY KEY (namespace, name)) {keyed}",
    "CREATE INDEX values_expiring ON values_kept (expires_ms) WHERE expires_ms > 0",
    "CREATE TABLE logs (id {serial}, run_id {text} NOT NULL, idx {int} NOT NULL, attempt {int} NOT NULL,"
    " stream {text} NOT NULL, start {int} NOT NULL, at_ms {int} NOT NULL, data {bytes} NOT NULL) {end}",
    "CREATE UNIQUE INDEX logs_place ON logs (run_id, idx, attempt, stream, start)",
    "CREATE TABLE artifacts (id {text} PRIMARY KEY, size {int} NOT NULL, touched_ms {int} NOT NULL) {keyed}",
    "CREATE INDEX artifacts_age ON artifacts (touched_ms)",
    "CREATE TABLE artifact_runs (artifact {text} NOT NULL, run_id {text} NOT NULL, PRIMARY KEY (artifact, run_id)) {keyed}",
    "CREATE INDEX artifact_runs_run ON artifact_runs (run_id)",
)

OF_A_RUN: Final = ("events", "tasks", "attempts", "expansions", "commands", "fences", "checkpoints", "logs", "artifact_runs")
"""Tables whose rows go with their run."""


def ensure(tx: Transaction) -> None:
    """Creates the tables in an empty database; in any other, checks the version. Raises RecordError."""
    tables = tx.dialect.tables(tx)
    if not tables:
        for statement in TABLES:
            tx.run(statement.format_map(tx.dialect.words))
        tx.run("INSERT INTO record_version VALUES (?)", VERSION)
        return
    row = tx.one("SELECT version FROM record_version") if "record_version" in tables else None
    if row is None:
        raise RecordError("this database has tables but is no Skep record; name another file or directory")
    if row[0] != VERSION:
        age = "newer" if row[0] > VERSION else "older"
        raise RecordError(
            f"the record has schema version {row[0]}, {age} than version {VERSION} of this Skep;"
            " run the Skep that wrote it, or use another data directory"
        )

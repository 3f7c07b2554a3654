"""The tables. A new record is created whole and stamped with `VERSION`; an older one grows by `migrations`, a newer one is
refused.

Times are milliseconds, 0 for none. Payloads are bytes and never looked into by SQL; the large ones stand last in their row, so
that what comes before them is read without them. In `tasks` and `attempts` the columns after the state may be NULL, read as
empty: a NULL in an upsert keeps what is there.

Lists of runs go by (accepted_ms, seq), the newest first; every index for them ends so.
"""

from __future__ import annotations

from typing import Final

from skep.record.dialect import Transaction

VERSION: Final = 4

RANK: Final = "(CASE priority WHEN 0 THEN 5 ELSE priority END) DESC"
"""Runs by priority; 0 stands for none named, which is normal."""

UNFINISHED: Final = "state < 3"
"""Of a run. Written out, not bound, so that the partial indexes below are used."""

RUNS: Final = (
    "CREATE TABLE runs (seq {serial}, id {text} NOT NULL, engine {text} NOT NULL, workflow {text} NOT NULL,"
    " digest {text} NOT NULL, namespace {text} NOT NULL, priority {int} NOT NULL, timeout_ms {int} NOT NULL,"
    " idempotency_key {text}, body_digest {text} NOT NULL, state {int} NOT NULL DEFAULT 0, reason {text} NOT NULL DEFAULT '',"
    " paused {int} NOT NULL DEFAULT 0, loaded {int} NOT NULL DEFAULT 0, command {int} NOT NULL DEFAULT 0,"
    " applied {int} NOT NULL DEFAULT 0, task_count {int} NOT NULL DEFAULT 0, accepted_ms {int} NOT NULL,"
    " started_ms {int} NOT NULL DEFAULT 0, finished_ms {int} NOT NULL DEFAULT 0, due_ms {int} NOT NULL DEFAULT 0,"
    " parent_run {text} NOT NULL DEFAULT '', parent_task {int} NOT NULL DEFAULT -1, depth {int} NOT NULL DEFAULT 0,"
    " schedule {text} NOT NULL DEFAULT '', base {text} NOT NULL DEFAULT '', labels {bytes} NOT NULL, inputs {bytes} NOT NULL)"
    " {end}",
    "CREATE UNIQUE INDEX runs_id ON runs (id)",
    "CREATE INDEX runs_accepted ON runs (accepted_ms, seq)",
    "CREATE INDEX runs_listed ON runs (namespace, accepted_ms, seq)",
    "CREATE INDEX runs_state ON runs (state, accepted_ms, seq)",
    "CREATE INDEX runs_workflow ON runs (workflow, accepted_ms, seq)",
    "CREATE INDEX runs_schedule ON runs (schedule, accepted_ms, seq) WHERE schedule <> ''",
    "CREATE INDEX runs_parent ON runs (parent_run, accepted_ms, seq) WHERE parent_run <> ''",
    "CREATE INDEX runs_digest ON runs (digest)",
    f"CREATE INDEX runs_unfinished ON runs (engine, {RANK}, accepted_ms, loaded, due_ms) WHERE {UNFINISHED}",
    f"CREATE INDEX runs_commanded ON runs (engine) WHERE {UNFINISHED} AND command > applied",
    f"CREATE INDEX runs_due ON runs (engine, due_ms) WHERE {UNFINISHED} AND due_ms > 0",
    "CREATE INDEX runs_ended ON runs (finished_ms, state) WHERE state >= 3",
    "CREATE UNIQUE INDEX runs_key ON runs (namespace, idempotency_key) WHERE idempotency_key IS NOT NULL",
    # Each label twice: with its value, and with an empty one, which stands for "it has this label".
    "CREATE TABLE run_labels (name {text} NOT NULL, value {text} NOT NULL, accepted_ms {int} NOT NULL, seq {int} NOT NULL,"
    " PRIMARY KEY (name, value, accepted_ms, seq)) {keyed}",
)

LATER: Final = (
    # Waits of parked tasks. `decided`: number of the command that decides it, whose effect is not recorded yet.
    "CREATE TABLE waits (run_id {text} NOT NULL, idx {int} NOT NULL, attempt {int} NOT NULL, kind {text} NOT NULL,"
    " event {text} NOT NULL, key {text} NOT NULL, since_ms {int} NOT NULL, due_ms {int} NOT NULL,"
    " decided {int} NOT NULL DEFAULT 0, data {bytes} NOT NULL, PRIMARY KEY (run_id, idx)) {keyed}",
    "CREATE INDEX waits_decided ON waits (run_id) WHERE decided > 0",
    "CREATE TABLE signals (id {text} PRIMARY KEY, namespace {text} NOT NULL, name {text} NOT NULL, key {text} NOT NULL,"
    " at_ms {int} NOT NULL, data {bytes} NOT NULL) {end}",
    "CREATE INDEX signals_sent ON signals (namespace, name, key, at_ms)",
    "CREATE INDEX signals_age ON signals (at_ms)",
    # Versions of workflows that somebody stored; their bodies are in `definitions`, with those of runs.
    "CREATE TABLE workflows (namespace {text} NOT NULL, name {text} NOT NULL, version {int} NOT NULL, digest {text} NOT NULL,"
    " note {text} NOT NULL, at_ms {int} NOT NULL, PRIMARY KEY (namespace, name, version)) {keyed}",
    "CREATE INDEX workflows_digest ON workflows (digest)",
    "CREATE TABLE schedules (namespace {text} NOT NULL, name {text} NOT NULL, spec {bytes} NOT NULL, paused {int} NOT NULL,"
    " fired_ms {int} NOT NULL, next_ms {int} NOT NULL, made_ms {int} NOT NULL, version {int} NOT NULL,"
    " PRIMARY KEY (namespace, name)) {keyed}",
    "CREATE TABLE nodes (engine {text} NOT NULL, id {text} NOT NULL, incarnation {int} NOT NULL, state {text} NOT NULL,"
    " draining {int} NOT NULL DEFAULT 0, at_ms {int} NOT NULL, PRIMARY KEY (engine, id)) {keyed}",
    "CREATE TABLE flags (name {text} PRIMARY KEY, value {text} NOT NULL) {keyed}",
    # Runs that were deleted and whose rows elsewhere go in steps.
    "CREATE TABLE pruned (run_id {text} PRIMARY KEY) {keyed}",
    "CREATE INDEX logs_run ON logs (run_id, id)",
)
"""What came with version 2."""

FLEET: Final = (
    # Keys with which nodes and people of other machines come in; the secrets themselves are nowhere.
    "CREATE TABLE keys (id {text} PRIMARY KEY, digest {text} NOT NULL UNIQUE, role {text} NOT NULL, note {text} NOT NULL,"
    " created_ms {int} NOT NULL, revoked_ms {int} NOT NULL DEFAULT 0) {end}",
    # Artifacts of a record that several machines share, in pieces; otherwise they are files and this is empty.
    "CREATE TABLE artifact_chunks (id {text} NOT NULL, n {int} NOT NULL, data {bytes} NOT NULL, PRIMARY KEY (id, n)) {end}",
)
"""What came with version 3."""

PLACEMENT: Final = (
    # While a run with a unique key goes on, no other with that key is accepted in its namespace.
    "ALTER TABLE runs ADD COLUMN unique_key {text}",
    f"CREATE UNIQUE INDEX runs_unique ON runs (namespace, unique_key) WHERE unique_key IS NOT NULL AND {UNFINISHED}",
    # How tasks of a run came to their nodes: one row per run and batch, of tasks `first` to `last`.
    "CREATE TABLE decisions (id {serial}, run_id {text} NOT NULL, first {int} NOT NULL, last {int} NOT NULL,"
    " data {bytes} NOT NULL) {end}",
    "CREATE INDEX decisions_run ON decisions (run_id, id)",
    # Money: of a node per hour and slot in millionths, of attempts and runs in billionths of the unit of `cost_per_hour`.
    "ALTER TABLE nodes ADD COLUMN price {int}",
    "CREATE INDEX nodes_priced ON nodes (engine) WHERE price IS NOT NULL",
    "ALTER TABLE attempts ADD COLUMN price {int}",
    "ALTER TABLE attempts ADD COLUMN cost {int}",
    "ALTER TABLE runs ADD COLUMN cost {int} NOT NULL DEFAULT 0",
)
"""What came with version 4. A new record grows by it too, so that columns stand where they do in an older one."""

TABLES: Final = (
    "CREATE TABLE record_version (version {int} NOT NULL) {end}",
    "CREATE TABLE engines (id {text} PRIMARY KEY, epoch {int} NOT NULL, mark {int} NOT NULL, process {text} NOT NULL,"
    " embedded {int} NOT NULL) {keyed}",
    "CREATE TABLE definitions (digest {text} PRIMARY KEY, body {bytes} NOT NULL) {end}",
    *RUNS,
    "CREATE TABLE commands (run_id {text} NOT NULL, number {int} NOT NULL, verb {text} NOT NULL, data {bytes} NOT NULL,"
    " at_ms {int} NOT NULL, PRIMARY KEY (run_id, number)) {keyed}",
    # One row per run and transcribed batch: events `first` to `last` of that epoch that are this run's, as one JSON list.
    "CREATE TABLE events (run_id {text} NOT NULL, epoch {int} NOT NULL, first {int} NOT NULL, last {int} NOT NULL,"
    " count {int} NOT NULL, at_ms {int} NOT NULL, events {bytes} NOT NULL, PRIMARY KEY (run_id, epoch, first)) {keyed}",
    "CREATE TABLE rejected (engine {text} NOT NULL, epoch {int} NOT NULL, n {int} NOT NULL, error {text} NOT NULL,"
    " event {bytes} NOT NULL, PRIMARY KEY (engine, epoch, n)) {keyed}",
    "CREATE TABLE tasks (run_id {text} NOT NULL, idx {int} NOT NULL, state {int} NOT NULL, attempts {int}, node {text},"
    " reason {text}, started_ms {int}, finished_ms {int}, output {bytes}, error {bytes}, due_ms {int}, since {int},"
    " PRIMARY KEY (run_id, idx)) {keyed}",
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
    *LATER,
    *FLEET,
    *PLACEMENT,
)

KEYS: Final = {
    "tasks": "idx",
    "attempts": "idx, attempt",
    "events": "epoch, first",
    "logs": "id",
    "decisions": "id",
    "expansions": "parent",
    "commands": "number",
    "waits": "idx",
    "fences": "idx",
    "checkpoints": "idx",
    "artifact_runs": "artifact",
}
"""Tables whose rows go with their run, each with the key of its rows within one."""


def create(tx: Transaction) -> None:
    """All tables, in an empty database."""
    for statement in TABLES:
        tx.tell(statement.format_map(tx.dialect.words))
    tx.tell("INSERT INTO record_version VALUES (?)", VERSION)

-- A record of schema version 1 as it was released, with a few rows.
CREATE TABLE record_version (version INTEGER NOT NULL) STRICT;
CREATE TABLE engines (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, mark INTEGER NOT NULL, process TEXT NOT NULL, embedded INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE definitions (digest TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE runs (id TEXT PRIMARY KEY, engine TEXT NOT NULL, workflow TEXT NOT NULL, digest TEXT NOT NULL, inputs BLOB NOT NULL, namespace TEXT NOT NULL, priority INTEGER NOT NULL, labels BLOB NOT NULL, timeout_ms INTEGER NOT NULL, idempotency_key TEXT, body_digest TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', paused INTEGER NOT NULL DEFAULT 0, loaded INTEGER NOT NULL DEFAULT 0, command INTEGER NOT NULL DEFAULT 0, task_count INTEGER NOT NULL DEFAULT 0, accepted_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL DEFAULT 0, finished_ms INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX runs_listed ON runs (namespace, accepted_ms);
CREATE INDEX runs_digest ON runs (digest);
CREATE INDEX runs_unfinished ON runs (engine, (CASE priority WHEN 0 THEN 5 ELSE priority END) DESC, accepted_ms) WHERE state < 3;
CREATE INDEX runs_commanded ON runs (engine) WHERE state < 3 AND command > 0;
CREATE INDEX runs_ended ON runs (finished_ms) WHERE state >= 3;
CREATE UNIQUE INDEX runs_key ON runs (namespace, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE commands (run_id TEXT NOT NULL, number INTEGER NOT NULL, verb TEXT NOT NULL, data BLOB NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (run_id, number)) STRICT, WITHOUT ROWID;
CREATE TABLE events (run_id TEXT NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL, at_ms INTEGER NOT NULL, events BLOB NOT NULL, PRIMARY KEY (run_id, epoch, first)) STRICT, WITHOUT ROWID;
CREATE TABLE rejected (engine TEXT NOT NULL, epoch INTEGER NOT NULL, n INTEGER NOT NULL, error TEXT NOT NULL, event BLOB NOT NULL, PRIMARY KEY (engine, epoch, n)) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (run_id TEXT NOT NULL, idx INTEGER NOT NULL, state INTEGER NOT NULL, attempts INTEGER, node TEXT, reason TEXT, started_ms INTEGER, finished_ms INTEGER, output BLOB, error BLOB, PRIMARY KEY (run_id, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE attempts (run_id TEXT NOT NULL, idx INTEGER NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL, token_epoch INTEGER, token_n INTEGER, first_epoch INTEGER, first_n INTEGER, node TEXT, granted_ms INTEGER, started_ms INTEGER, finished_ms INTEGER, error BLOB, PRIMARY KEY (run_id, idx, attempt)) STRICT, WITHOUT ROWID;
CREATE TABLE expansions (run_id TEXT NOT NULL, parent INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (run_id, parent)) STRICT, WITHOUT ROWID;
CREATE TABLE fences (run_id TEXT NOT NULL, idx INTEGER NOT NULL, epoch INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (run_id, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (run_id TEXT NOT NULL, idx INTEGER NOT NULL, data BLOB NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (run_id, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE values_kept (namespace TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL, expires_ms INTEGER NOT NULL, PRIMARY KEY (namespace, name)) STRICT, WITHOUT ROWID;
CREATE INDEX values_expiring ON values_kept (expires_ms) WHERE expires_ms > 0;
CREATE TABLE logs (id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, idx INTEGER NOT NULL, attempt INTEGER NOT NULL, stream TEXT NOT NULL, start INTEGER NOT NULL, at_ms INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX logs_place ON logs (run_id, idx, attempt, stream, start);
CREATE TABLE artifacts (id TEXT PRIMARY KEY, size INTEGER NOT NULL, touched_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX artifacts_age ON artifacts (touched_ms);
CREATE TABLE artifact_runs (artifact TEXT NOT NULL, run_id TEXT NOT NULL, PRIMARY KEY (artifact, run_id)) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_runs_run ON artifact_runs (run_id);
INSERT INTO record_version VALUES (1);

INSERT INTO engines VALUES ('run-1', 100, 9, 'p1', 1);
INSERT INTO definitions VALUES ('d1', CAST('{"name":"w"}' AS BLOB));
INSERT INTO runs (id, engine, workflow, digest, inputs, namespace, priority, labels, timeout_ms, idempotency_key, body_digest,
 state, reason, command, task_count, accepted_ms, started_ms, finished_ms, loaded) VALUES
 ('r1', 'run-1', 'w', 'd1', CAST('{"x":1}' AS BLOB), 'default', 0, CAST('{"team":"a"}' AS BLOB), 0, 'k1', 'b1', 3, '', 1, 2, 1000, 1001, 1009, 100),
 ('r2', 'run-1', 'w', 'd1', CAST('{}' AS BLOB), 'default', 8, CAST('{}' AS BLOB), 0, NULL, 'b2', 4, 'abandoned', 0, 2, 2000, 0, 2009, 0),
 ('r3', 'run-1', 'v', 'd1', CAST('{}' AS BLOB), 'other', 0, CAST('{"team":"b","env":""}' AS BLOB), 0, NULL, 'b3', 1, '', 0, 2, 2000, 2001, 0, 100);
INSERT INTO commands VALUES ('r1', 1, 'pause', x'', 1002);
INSERT INTO tasks VALUES ('r1', 0, 5, 1, 'n1', '', 1001, 1005, CAST('"out"' AS BLOB), x''), ('r3', 0, 3, 2, 'n1', '', 2001, 0, x'', x'');
INSERT INTO attempts VALUES ('r3', 0, 1, 'failed', 100, 5, 100, 5, 'n1', 2001, 2001, 2002, x''),
 ('r3', 0, 2, 'running', 100, 7, 100, 7, 'n1', 2003, 0, 0, x'');
INSERT INTO logs (run_id, idx, attempt, stream, start, at_ms, data) VALUES ('r1', 0, 1, 'out', 0, 1003, CAST('hello' AS BLOB));

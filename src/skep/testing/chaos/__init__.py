"""Attacks on a fleet, and the oracle outside of Skep that says whether anything was lost: behind `skep chaos`.

| part | is |
|---|---|
| `plan` | which faults, when, how long: of a seed |
| `fleet`, `program`, `proxy`, `places` | what is attacked: processes, and the lines between them |
| `faults` | what each fault does, and what it needs |
| `graphs`, `work`, `load` | random workflows, what their tasks do, and who submits and steers them |
| `ledger`, `effects` | what was promised, and what was done: two files that Skep does not write |
| `story` | what Skep says of it afterwards |
| `check`, `failover`, `score` | what is wrong, how long it took, and how it is shown |
| `broken` | the same servers with one guard switched off, to prove the checker |
"""

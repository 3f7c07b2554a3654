"""Simulating: the real engine and the real router on virtual time, where only the durations of tasks are made up.

`fleetfile` and `work` read what is given, `trace` says when runs arrive and nodes are lost, `simulation` lets it happen,
`heft` and `bound` are what it is compared with, `compare` does all of it for several policies.
"""

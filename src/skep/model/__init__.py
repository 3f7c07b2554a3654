"""Data only: what a workflow, a run, a task, a node and an event are."""

"""Pure decisions about work: the graph, what becomes of a task, retries, expressions."""

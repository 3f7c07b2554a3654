"""Pure decisions about where: which node runs a task."""

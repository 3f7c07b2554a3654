"""A machine that runs tasks."""

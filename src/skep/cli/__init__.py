"""The command line: `skep run`, `check`, `schema`, `import`, `demo`."""

from skep.cli.app import main

__all__ = ["main"]

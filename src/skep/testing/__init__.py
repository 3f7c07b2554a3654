"""For tests: `run` plays workflows of users on virtual time; the rest is for whoever writes a backend of Skep."""

from skep.testing.run import run

__all__ = ["run"]

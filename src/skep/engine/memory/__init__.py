"""The memory engine."""

from skep.engine.memory.core import Core, MemoryEngine

__all__ = ["Core", "MemoryEngine"]

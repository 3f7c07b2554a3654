"""Measuring: benchmarks of the whole thing on the machine at hand."""

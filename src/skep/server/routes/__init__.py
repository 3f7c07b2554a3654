"""Paths and what they do: one noun of the hub a file."""

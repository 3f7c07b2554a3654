"""Durable truth: what was accepted, what happened."""

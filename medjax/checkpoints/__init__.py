"""Checkpoints of medjax and of other systems: one module a format."""

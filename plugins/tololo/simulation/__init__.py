"""Observing nights with a truth table."""

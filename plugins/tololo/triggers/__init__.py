"""Triggers: what the triggerer watches for deferred tasks; none of them imports the stack."""

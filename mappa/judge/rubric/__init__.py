"""Deterministic, process-level judges: no model, no network, no answer key."""

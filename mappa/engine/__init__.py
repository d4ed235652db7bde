"""Rollout engines: a new engine is one file here and one yaml in conf/engine."""

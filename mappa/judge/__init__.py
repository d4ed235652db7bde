"""Judges: a new judge is one file here and one yaml in conf/judge."""

"""One error class per boundary. Each message is one line that says what is wrong and what to do."""

from __future__ import annotations


class MappaError(Exception):
    """Base of all errors that a user can cause and mend; `python -m mappa.*` prints them as one line."""


class ConfigError(MappaError):
    """The composed configuration cannot work; raised before anything slow starts."""


class TaskError(MappaError):
    """A task file, record or grader is unusable."""


class EngineError(MappaError):
    """A generation request cannot be served. Inside a rollout it ends that episode only, and is counted."""


class JudgeError(MappaError):
    """The judge cannot be used at all (wrong key, unknown model). One failed call is a `Verdict` without a score."""


class RolloutError(MappaError):
    """Too many of an epoch's episodes failed for it to be learned from."""


class SelectionError(MappaError):
    """Epoch after epoch nothing was kept to learn from."""


class CheckpointError(MappaError):
    """A checkpoint or run folder is missing, damaged, or does not fit the configuration."""


class RankError(MappaError):
    """Another process of a distributed run is gone, or cannot be reached in time."""

"""Trackio as a logger of Lightning's: neither of the two ships one."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """Metrics go to Trackio's local database, or to a Space of the hub."""

    def __init__(self, project: str, name: str | None = None, space_id: str | None = None) -> None:
        """
        Args:
            project: under which runs are compared.
            name: of the run; Trackio numbers those of one name.
            space_id: `USER/NAME` of a Space to log to; None = this machine.
        """
        super().__init__()
        self._project, self._name, self._space = project, name, space_id
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's own run."""
        if self._run is None:
            import trackio

            self._run = trackio.init(self._project, name=self._name, space_id=self._space)
        return self._run

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in the run folder."""

"""The trajectory page in the run folder, written when the run ends: `report.html`."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from mappa.report.page import model_pieces, write_page
from mappa.report.records import CONFIG, read_run

log = logging.getLogger(__name__)


class ReportCallback(Callback):
    """Placed after the summary in the list of callbacks."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if not (self._folder / CONFIG).is_file():
            log.info("no report.html: Hydra was told to leave no configuration in the run folder")
            return
        run = read_run(self._folder)
        write_page(run, self._folder / "report.html", pieces=model_pieces(run))

"""A few episodes of each epoch as text, where the logger can show it (TensorBoard's tab "Text")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning import Callback, LightningModule, Trainer

from mappa.types import Episode, Verdict

if TYPE_CHECKING:
    from pydantic import NonNegativeInt


class TextCallback(Callback):
    """The first episodes of the first rank; all are in `episodes/` and in report.html."""

    def __init__(self, episodes: NonNegativeInt = 2) -> None:
        self._count = episodes

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        if not trainer.is_global_zero:
            return
        for logger in [logger for logger in trainer.loggers if hasattr(logger.experiment, "add_text")]:
            for index, episode in enumerate(data.episodes[: self._count]):
                text = as_markdown(episode, data.verdicts)
                logger.experiment.add_text(f"episode/{index}", text, pl_module.version)


def as_markdown(episode: Episode, verdicts: Mapping[str, Verdict]) -> str:
    """What was said stands in indented blocks, so that none of it is taken for markup."""
    grade = "no grade" if episode.grade is None else f"grade {episode.grade.score:g}, {episode.grade.reason}"
    parts = ["task", _block(episode.task.question), f"{episode.id}:", _block(episode.error or grade)]
    for action in episode.actions:
        parts += [f"**{action.seat}**", _block(action.text)]
        if action.tool is not None:
            parts += [f"ran it: {action.tool.status}", _block(action.tool.text)]
        verdict = verdicts.get(action.id)
        if verdict is not None:
            score = "no verdict" if verdict.score is None else f"{verdict.score:g} / 10"
            parts += [score, _block(verdict.reason)]
    return "\n\n".join(parts)


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in (text.strip() or "(nothing)").splitlines())

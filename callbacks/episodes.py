"""Every training episode on disk, with verdicts and advantages: `episodes/epoch=NNNN.jsonl`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mappa.play.episodes import to_json, write_episodes
from mappa.ranks import gather


class EpisodesCallback(Callback):
    """Completes the file that the data module wrote when the rollout was done."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The header names the weights that sampled the episodes, so it is taken before the update."""
        self._header = trainer.datamodule.header()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        path = data.episodes_path(data.epoch)
        episodes, verdicts = data.everyone()
        advantages = {row.sample.action.id: row.advantages.tolist() for row in data.rows}
        advantages = {key: value for part in gather(advantages) for key, value in part.items()}
        if path is None or not trainer.is_global_zero:
            return
        lines: list[dict[str, Any]] = []
        for episode in episodes:
            line = to_json(episode)
            for action in line["actions"]:
                verdict = verdicts.get(action["id"])
                action["verdict"] = asdict(verdict) if verdict is not None else None
                action["advantages"] = advantages.get(action["id"])
            lines.append(line)
        write_episodes(path, self._header, lines)

"""What a callback keeps of held-out episodes until their validation is over, and then measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mappa.play.rollout import Listener
from mappa.ranks import gather
from mappa.types import Episode


class HeldOutCallback(Callback, Listener, ABC):
    """A subclass says what it needs of an episode, and what all ranks' of one set show."""

    prefix: str
    """Logged numbers are called `<prefix>/<set>/...`."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Any]] = defaultdict(list)
        self.results: list[dict[str, Any]] = []
        """One for each validation of each set: `epoch`, `name`, and what `measure` gave."""

    async def keep(self, episode: Episode) -> Any:
        """What is needed of it; can be pickled."""
        return episode

    @abstractmethod
    def measure(
        self, kept: Sequence[Any], trainer: Trainer, module: LightningModule
    ) -> tuple[dict[str, Any], dict[str, float]] | None:
        """The result, and the numbers that are logged; None where there is nothing to tell. Collective."""

    async def on_episode(self, purpose: str, episode: Episode) -> None:
        if purpose != "train":
            self._kept[purpose].append(await self.keep(episode))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of every set that was played since the last time. Collective."""
        mine, self._kept = dict(self._kept), defaultdict(list)
        parts = gather(mine)
        for name in sorted({name for part in parts for name in part}):
            found = self.measure([one for part in parts for one in part.get(name, [])], trainer, pl_module)
            if found is None:
                continue
            result, numbers = found
            self.results.append({"epoch": trainer.datamodule.epoch, "name": name} | result)
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logged = {f"{self.prefix}/{name}/{key}": value for key, value in numbers.items()}
                    logger.log_metrics(logged, pl_module.version)

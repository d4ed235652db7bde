"""How different the agents of a debate are, and what vote and debate add, with every validation."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

from lightning import Callback, LightningModule, Trainer

from mappa.play.rollout import Listener
from mappa.ranks import gather
from mappa.report.diversity import Answers, accuracies, agreement, dissimilarity, distances, first_answers
from mappa.report.embed import vectors
from mappa.types import BASE, Episode, Sample

if TYPE_CHECKING:
    from pydantic import PositiveInt


class DiversityCallback(Callback, Listener):
    """Looks at what was played on held-out tasks; stands after the validation callback."""

    def __init__(self, limit: PositiveInt | None = 64, embed: Literal["base", "minilm"] = "base") -> None:
        """
        Args:
            limit: problems of each set for what takes forward passes; None = all.
            embed: whose vectors tell how different two answers are.
        """
        self._limit, self._embed = limit, embed
        self._episodes: dict[str, list[Episode]] = defaultdict(list)
        self.results: list[dict[str, Any]] = []
        """One for each validation of each set: `epoch`, `name`, `single`, `majority` and `debate` with intervals,
        `consensus`, `majority_share`, `likelihood`, `kl`, `entropy` (nats per token), `embedding` (1 - cosine)."""

    async def on_episode(self, purpose: str, episode: Episode) -> None:
        if purpose != "train":
            self._episodes[purpose].append(episode)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.datamodule.epoch)

    def _measure(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        """Of every set that was played since the last time. Collective."""
        mine, self._episodes = dict(self._episodes), defaultdict(list)
        parts = gather(mine)
        for name in sorted({name for part in parts for name in part}):
            episodes = sorted((e for part in parts for e in part.get(name, [])), key=lambda e: e.id)
            found = [first_answers(episode, trainer.datamodule.task_set) for episode in episodes]
            answers = [one for one in found if one is not None]
            if not answers:
                continue
            numbers = agreement(answers) | self._of_agents(answers[: self._limit], module)
            result = {"epoch": epoch, "name": name} | accuracies(answers) | numbers
            self.results.append(result)
            means = {
                k: v["mean"] if isinstance(v, dict) else v for k, v in result.items() if k not in ("epoch", "name")
            }
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.log_metrics({f"diversity/{name}/{k}": v for k, v in means.items()}, module.version)

    def _of_agents(self, answers: list[Answers], module: LightningModule) -> dict[str, float]:
        """What takes forward passes; every rank computes the same."""
        samples: dict[str, list[Sample]] = defaultdict(list)
        for found in answers:
            for action in found.actions:
                if action.agent != BASE:
                    samples[action.agent].append(Sample(action, "", "", None))
        nll: dict[tuple[str, str], float] = {}
        for i in samples:
            for j, mine in samples.items():
                logprobs = module.policies.logprobs(mine, i)
                nll[i, j] = -sum(v.sum().item() for v in logprobs) / sum(map(len, logprobs))
        actions = [action for found in answers for action in found.actions]
        rows = iter(vectors(self._embed, actions, module.adapters).tolist())
        distance = dissimilarity([[next(rows) for _ in found.actions] for found in answers])
        return (distances(nll) if nll else {}) | ({} if distance is None else {"embedding": distance})

    def state_dict(self) -> dict[str, Any]:
        return {"results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results = state_dict["results"]

"""How different the agents of a debate are, and what vote and debate add, with every validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning import LightningModule, Trainer

from callbacks.held_out import HeldOutCallback
from mappa.report.diversity import Answers, accuracies, agreement, dissimilarity, distances, first_answers
from mappa.report.embed import vectors
from mappa.types import BASE, Episode, Sample

if TYPE_CHECKING:
    from pydantic import PositiveInt


class DiversityCallback(HeldOutCallback):
    """`results`: `single`, `majority` and `debate` with intervals, `consensus`, `majority_share`, `likelihood`, `kl`,
    `entropy` (nats per token), `embedding` (1 - cosine)."""

    prefix = "diversity"

    def __init__(self, limit: PositiveInt | None = 64, embed: Literal["base", "minilm"] = "base") -> None:
        """
        Args:
            limit: problems of each set for what takes forward passes; None = all.
            embed: whose vectors tell how different two answers are.
        """
        super().__init__()
        self._limit, self._embed = limit, embed

    def measure(
        self, kept: Sequence[Episode], trainer: Trainer, module: LightningModule
    ) -> tuple[dict[str, Any], dict[str, float]] | None:
        """None where nobody has answered."""
        episodes = sorted(kept, key=lambda episode: episode.id)
        found = [first_answers(episode, trainer.datamodule.task_set) for episode in episodes]
        answers = [one for one in found if one is not None]
        if not answers:
            return None
        numbers = agreement(answers) | self._of_agents(answers[: self._limit], module)
        result = accuracies(answers) | numbers
        return result, {k: v["mean"] if isinstance(v, dict) else v for k, v in result.items()}

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

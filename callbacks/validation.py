"""Honest validation: the team plays held-out tasks, and only the task's own grader is believed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mappa.play.episodes import to_json, write_episodes, write_lines
from mappa.play.rollout import Job
from mappa.ranks import gather
from mappa.report.metrics import (
    clusters_by_task,
    evaluate_episodes,
    measures_by_task,
    scores_by_task,
    tokens_by_task,
)
from mappa.report.statistics import interval, paired
from mappa.seed import stable_seed
from mappa.types import Episode

if TYPE_CHECKING:
    from annotated_types import Gt, Le
    from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt


@dataclass(frozen=True)
class Result:
    """One validation of one set."""

    epoch: int
    """Epochs trained before it."""
    name: str
    measures: dict[str, dict[str, float]]
    """avg@k, pass@k, maj@k, each as mean, low, high (95% interval over problems) and n (problems)."""
    tokens: float
    """Completion tokens per episode, of all seats: what the accuracy costs."""
    tokens_interval: dict[str, float]
    """Its mean, low and high over n problems."""
    tokens_by_task: dict[str, float]
    """Task id -> mean completion tokens of its episodes."""
    failed: int
    """Episodes that ended in an error; they count as wrong."""
    scores: dict[str, float]
    """Task id -> mean grade of its episodes."""
    by_task: dict[str, dict[str, float]]
    """The task's own measures; see `metrics.measures_by_task`."""
    metrics: dict[str, dict[str, float]]
    """Their means with intervals, as in `measures`."""
    gain: dict[str, float] | None = None
    """Over the untrained team on the same problems: mean, low, high, n and p; see `statistics.paired`."""
    tokens_gain: dict[str, float] | None = None
    """Likewise of the completion tokens; below zero = fewer."""
    gains: dict[str, dict[str, float]] = field(default_factory=dict)
    """Likewise for each of the task's own measures that the same problems had before (a failed run has no rmse)."""

    @property
    def accuracy(self) -> dict[str, float]:
        """avg@k, which comes first."""
        return next(iter(self.measures.values()))


class ValidationCallback(Checkpoint):
    """Before training, every `every_n_epochs`, and after the last epoch, on every validation set of the task.

    A `Checkpoint` to Lightning, which calls those last: what was trained is saved before it is graded. The other
    callbacks are told by their `on_validation_end`.
    """

    def __init__(
        self,
        folder: str,
        every_n_epochs: NonNegativeInt = 10,
        samples: PositiveInt = 1,
        limit: PositiveInt | None = None,
        temperature: NonNegativeFloat = 1.0,
        top_p: Annotated[float, Gt(0), Le(1)] = 1.0,
        before: bool = True,
        seed: int = 0,
    ) -> None:
        """`samples`: episodes per problem. `limit`: problems per set; None = all. `folder`: per-problem results, and
        in its `transcripts/` all that was said, in the format of training episodes.

        `temperature`: 0 = greedy decoding.
        """
        self._folder = Path(folder)
        self._every, self._samples, self._limit, self._before = every_n_epochs, samples, limit, before
        self._temperature, self._top_p, self._seed = temperature, top_p, seed
        self.results: list[Result] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.datamodule.epoch
        if self._due(trainer, done) and all(result.epoch != done for result in self.results):
            self.validate(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._due(trainer, trainer.datamodule.epoch):
            self.validate(trainer, pl_module)

    def _due(self, trainer: Trainer, done: int) -> bool:
        if done == 0:
            return self._before
        return done == trainer.max_epochs or trainer.should_stop or (self._every > 0 and done % self._every == 0)

    def validate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Play every validation set once, and tell the other callbacks. Collective."""
        fresh, epoch = [], trainer.datamodule.epoch
        for name, tasks in trainer.datamodule.task_set.validation().items():
            jobs = [
                Job(f"{name}-{index:05d}-{copy}", task, stable_seed(self._seed, name, task.id, copy))
                for index, task in enumerate(tasks[: self._limit])
                for copy in range(self._samples)
            ]
            mine = trainer.datamodule.play(jobs, name, self._temperature, self._top_p)
            episodes = sorted((e for part in gather(mine) for e in part), key=lambda e: e.id)
            scores, spent = scores_by_task(episodes), tokens_by_task(episodes)
            by_task = measures_by_task([trainer.datamodule.with_grade(episode) for episode in episodes])
            clusters = clusters_by_task(episodes)
            untrained = next((r for r in self.results if r.name == name and r.epoch == 0), None)
            result = Result(
                epoch=epoch,
                name=name,
                scores=scores,
                by_task=by_task,
                metrics={measure: _interval(values, clusters) for measure, values in by_task.items()},
                gain=paired(untrained.scores, scores, clusters) if untrained is not None else None,
                gains=_gains(untrained.by_task, by_task, clusters) if untrained is not None else {},
                measures=evaluate_episodes(episodes, trainer.datamodule.task_set.vote),
                tokens=statistics.fmean(spent.values()),
                tokens_interval=_interval(spent, clusters),
                tokens_by_task=spent,
                tokens_gain=paired(untrained.tokens_by_task, spent, clusters) if untrained is not None else None,
                failed=sum(episode.error is not None for episode in episodes),
            )
            fresh.append(result)
            sampling = {"sampling": [self._temperature, self._top_p, self._seed]}
            header = trainer.datamodule.header() | sampling  # collective
            if trainer.is_global_zero:
                transcripts = self._folder / "transcripts" / f"{name}-epoch={epoch:04d}.jsonl"
                write_episodes(transcripts, header, [to_json(episode) for episode in episodes])
                self._write(epoch, name, episodes, trainer.datamodule.task_set.vote)
                for logger in trainer.loggers:
                    numbers = {f"validation/{name}": result.accuracy["mean"]}
                    numbers[f"validation/{name}/tokens"] = result.tokens
                    numbers |= {f"validation/{name}/{key}": value["mean"] for key, value in result.metrics.items()}
                    logger.log_metrics(numbers, trainer.lightning_module.version)
        self.results += fresh
        for callback in trainer.callbacks:
            callback.on_validation_end(trainer, pl_module)

    def _write(self, epoch: int, name: str, episodes: list[Episode], vote: Callable[[str], str | None]) -> None:
        lines = [
            {
                "task": episode.task.id,
                "kind": episode.task.kind,
                "cluster": episode.task.cluster or episode.task.id,
                "answer": episode.answer,
                "vote": None if episode.answer is None else vote(episode.answer),
                "score": episode.grade.score if episode.grade else 0.0,
                "metrics": dict(episode.grade.metrics) if episode.grade else {},
                "reason": episode.grade.reason if episode.grade else episode.error,
                "tokens": sum(len(action.completion_ids) for action in episode.actions),
                "prompt_tokens": sum(len(action.prompt_ids) for action in episode.actions),
            }
            for episode in episodes
        ]
        write_lines(self._folder / f"{name}-epoch={epoch:04d}.jsonl", lines)

    def state_dict(self) -> dict[str, Any]:
        return {"results": [vars(result) for result in self.results]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results = [Result(**result) for result in state_dict["results"]]


def _interval(values: Mapping[str, float], clusters: Mapping[str, str]) -> dict[str, float]:
    return interval(list(values.values()), clusters=[clusters[task] for task in values])


def _gains(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], clusters: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    return {
        measure: paired(before[measure], values, clusters)
        for measure, values in after.items()
        if before.get(measure, {}).keys() == values.keys()
    }

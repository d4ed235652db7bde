"""LightningModule: owns base and adapters; `training_step` = rows of one optimizer step -> loss -> step, per agent."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from lightning import LightningModule
from torch import Tensor

from mappa.epoch import Collected, save_and_stop
from mappa.errors import ConfigError, SelectionError
from mappa.learn.batch import collate, parts
from mappa.learn.packing import computed_tokens
from mappa.learn.policies import Old, TeamPolicies
from mappa.learn.rows import Row, needed_tokens, row_warnings
from mappa.objective.base import Objective, Prepared, Start
from mappa.policy.forward import Policy
from mappa.policy.model import Model
from mappa.policy.sharded import shard
from mappa.ranks import added, full, gather, world
from mappa.report.metrics import rollout_metrics, step_metrics, truncation_lines
from mappa.types import Batch

if TYPE_CHECKING:
    from annotated_types import Ge, Lt
    from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

    from mappa.learn.data import RolloutDataModule
    from mappa.policy.lora import Adapters

log = logging.getLogger(__name__)

EMPTY_EPOCHS = 3
"""In a row without anything to learn from, after which training stops."""


class TeamModule(LightningModule):
    """All agents of the team: one frozen base, one adapter, one optimizer and one gradient clip each."""

    def __init__(
        self,
        model: Model,
        lora: Callable[..., Adapters],
        agents: Sequence[str],
        objective: Objective,
        learning_rate: PositiveFloat = 1e-4,
        min_learning_rate: NonNegativeFloat = 1e-5,
        warmup_fraction: Annotated[float, Ge(0), Lt(1)] = 0.03,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: NonNegativeFloat = 0.0,
        clip_norm: PositiveFloat = 1.0,
        micro_batch_tokens: PositiveInt = 16384,
        chunk_tokens: PositiveInt = 1024,
        temperature: PositiveFloat = 1.0,
        max_engine_gap: PositiveFloat = 0.2,
    ) -> None:
        """`agents`: the adapters' names. `lora`: called with (base, agents). The others: see conf/train.yaml."""
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.agents = tuple(agents)
        self.version = 0
        """Number of updates taken: the adapters' version."""
        self.tokens: Counter[str] = Counter()
        """Of this rank's updates: `computed`, with padding, and `needed`, each act's once; a callback empties it."""
        self.adapters_from: Path | None = None
        """Folder of saved adapters to start from (resume, evaluate)."""
        self._lora = lora
        self._empty_epochs = 0
        self.objective = objective
        self._chunk_tokens = chunk_tokens
        self._rates = (learning_rate, min_learning_rate, warmup_fraction)
        self._adam = {"betas": tuple(betas), "weight_decay": weight_decay}
        self._clip_norm = clip_norm
        self._micro_batch_tokens = micro_batch_tokens
        self._temperature = temperature
        self._max_engine_gap = max_engine_gap
        self._policy: Policy | None = None

    # ------------------------------------------------------------------ life
    def configure_model(self) -> None:
        """Load the base and create the adapters; Lightning may call this more than once."""
        if self._policy is not None:
            return
        if self.model.attention == "flex_attention" and self.trainer.strategy.root_device.type == "cpu":
            raise ConfigError("model.attention=flex_attention has no backward pass on the CPU; leave it out")
        self.chat = self.model.chat()
        reads = self.device_mesh is None or world()[0] == 0  # sharded weights come from the first rank
        self.adapters = self._lora(self.model.load(weights=reads), self.agents)
        self.adapters.precision = lambda: self.trainer.precision_plugin.forward_context()
        if self.adapters_from is not None:
            self.adapters.load(self.adapters_from)
        self.adapters.model.train()  # transformers loads in evaluation mode, which also turns checkpointing off
        self._policy = Policy(self.adapters, self._learned_temperature(self.objective.at(0)), self._chunk_tokens)
        self.policies = TeamPolicies(
            self._policy, self.adapters, self.chat.pad_id, self._micro_batch_tokens, self._max_engine_gap, self._old
        )
        if self.device_mesh is not None:
            shard(self._policy, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        default, lowest, warmup = self._rates
        updates, epochs = self.data.updates_per_epoch, max(1, self.trainer.max_epochs)

        def schedule(update: int) -> float:
            """Of the epoch's objective, relative to the module's rate: warm-up, then a cosine."""
            epoch, within = divmod(update, updates)
            objective = self.objective.at(min(epoch, epochs - 1))
            rate = objective.learning_rate or default
            step, total = (update, updates * epochs) if objective.start is Start.ON else (within, updates)
            if step < warmup * total:
                return (step + 1) / (warmup * total + 1) * rate / default
            progress = min(1.0, (step - warmup * total) / max(1.0, total - warmup * total))
            low = lowest / default * rate
            return (low + 0.5 * (rate - low) * (1 + math.cos(math.pi * progress))) / default

        optimizers = [torch.optim.AdamW(self.adapters.parameters(a), lr=default, **self._adam) for a in self.agents]
        return optimizers, [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]

    def on_train_start(self) -> None:
        """Learning rate, decay and betas are this configuration's at the present update, whatever a checkpoint held."""
        rate, done = self._rates[0], self.data.epoch * self.data.updates_per_epoch
        for config in self.trainer.lr_scheduler_configs:
            scheduler, group = config.scheduler, config.scheduler.optimizer.param_groups[0]
            before = group["lr"]
            scheduler.base_lrs, scheduler.last_epoch = [rate], done
            group.update(self._adam, initial_lr=rate, lr=rate * scheduler.lr_lambdas[0](done))
        if done and group["lr"] != before:
            log.warning("the schedule was changed: the learning rate goes on at %.3g, not %.3g", group["lr"], before)

    @property
    def data(self) -> RolloutDataModule:
        return self.trainer.datamodule

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adapters are saved in PEFT's own format beside this file, the base never."""
        checkpoint["state_dict"] = {}
        checkpoint["version"] = self.version
        checkpoint["empty_epochs"] = self._empty_epochs
        checkpoint["objective"] = self.objective.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.version = checkpoint["version"]
        self._empty_epochs = checkpoint["empty_epochs"]
        self.objective.load_state_dict(checkpoint["objective"])

    def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `configure_model` has loaded the adapters."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Rows stay on the host; each micro-batch is moved when its turn comes."""
        return batch

    # ------------------------------------------------------------------ what is learned
    @property
    def turn(self) -> Objective:
        """The objective of this epoch."""
        return self.objective.at(self.data.epoch)

    def _learned_temperature(self, objective: Objective) -> float:
        return objective.temperature or self._temperature

    def _old(self) -> Old:
        """One update per rollout: pi_old = pi_theta. Sampled with the trainer's own weights: the engine knows it."""
        if self.data.updates_per_epoch == 1:
            return Old.NOT_NEEDED
        return Old.OF_ENGINE if self.data.engine.shares_weights else Old.OF_TRAINER

    def on_train_epoch_start(self) -> None:
        """Runs after the callbacks' hook, so every verdict is in: the objective makes this epoch's rows.

        Raises:
            SelectionError: `EMPTY_EPOCHS` in a row without any; there is a checkpoint.
        """
        data, objective = self.data, self.turn
        self._policy.temperature = self._learned_temperature(objective)
        with data.timed("credit"):
            made = Collected(
                *(data.episodes, data.verdicts, self.version, data.task_set, self.policies, self.chat.opened, gather)
            )
            prepared = objective.rows(made)
            data.rows = prepared.rows
        self._log_rollout(prepared)
        self._mind_the_rows(prepared.rows)
        self._begin(objective.start)

    def _mind_the_rows(self, rows: Sequence[Row]) -> None:
        """Warn of what leaves too little to learn from; stop, with a checkpoint, where that goes on."""
        counts = added(Counter(row.sample.action.agent for row in rows))
        steps = self.data.updates_per_epoch / self.turn.passes
        numbers = {f"{agent}/rows_per_step": counts[agent] / steps for agent in self.agents}
        self.log_dict(numbers, on_step=False, on_epoch=True)
        self._empty_epochs = 0 if counts else self._empty_epochs + 1
        for line in row_warnings(counts, self.agents, steps, anew=self.turn.start is not Start.ON):
            log.warning("epoch %d: %s", self.data.epoch, line)
        if self._empty_epochs >= EMPTY_EPOCHS:
            save_and_stop(self.trainer, self)
            raise SelectionError(
                f"{EMPTY_EPOCHS} epochs in a row kept nothing to learn from: look at episodes/ and at what the "
                "objective selects; the run can be resumed"
            )

    def _begin(self, start: Start) -> None:
        """Optimizers, and adapters, as the objective wants them before an epoch's first update."""
        if start is Start.BASE:
            self.adapters.reset()
        if start is not Start.ON:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    # ------------------------------------------------------------------ update
    def training_step(self, rows: list[Row], batch_idx: int) -> None:
        """One optimizer step. Every rank runs the same number of micro-batches, padded with empty ones."""
        with self.data.timed("update"):
            metrics = self._update_all(rows)
        self.version += 1
        self.log_dict(metrics, on_step=True, on_epoch=False)

    def _update_all(self, rows: list[Row]) -> dict[str, float]:
        """One pass over the rows of all agents, then a clipped step of each that has any on some rank."""
        mine = {agent: self.turn.size([row for row in rows if row.agent == agent]) for agent in self.agents}
        rows = [row for row in rows if mine[row.agent] > 0]  # what has no weight at all has no loss either
        micro = self.policies.micro_batches(rows)
        self.tokens.update(computed=computed_tokens(micro), needed=needed_tokens(rows))
        plans = gather((len(micro), mine))
        steps, sizes = max(plan[0] for plan in plans), added(mine, lambda _: [plan[1] for plan in plans])
        learning = [agent for agent in self.agents if sizes[agent] > 0]
        sums: dict[str, Tensor] = {}
        for index in range(steps if learning else 0):
            part, last = micro[index] if index < len(micro) else [], index == steps - 1
            whole = len(plans) > 1 and (last or not part)  # where gradients meet, every rank has everyone's
            batch = collate(part, self.chat.pad_id, learning if whole else ())
            with self._sync_gradients(last):
                self.manual_backward(self._loss(batch, sizes, sums) * len(plans))  # the strategy averages over ranks
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        if len(self.agents) == 1:
            optimizers, schedulers = [optimizers], [schedulers]
        for agent, optimizer in zip(self.agents, optimizers, strict=True):
            if agent in learning:
                sums[f"{agent}/grad_norm"] = self._clip(agent)
                optimizer.step()
                optimizer.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
        values = torch.stack([value.detach().float().to(self.device) for value in sums.values()]) if sums else None
        numbers = dict(zip(sums, values.tolist(), strict=True)) if sums else {}  # the host waits here, and only here
        return step_metrics(numbers) | {"learning_rate": schedulers[0].get_last_lr()[0]}

    def _loss(self, batch: Batch, sizes: Mapping[str, float], sums: dict[str, Tensor]) -> Tensor:
        """Of a micro-batch, each agent's by its own size; adds to the `<agent>/...` sums, which stay on the device."""
        logprobs_N, entropy_N = self.policies.forward(batch)
        losses = []
        for agent, where, part in parts(batch):
            loss, values = self.turn.loss(logprobs_N[where], entropy_N[where], part, sizes[agent])
            losses.append(loss)
            for key, value in values.items():
                sums[f"{agent}/{key}"] = sums.get(f"{agent}/{key}", 0.0) + value.detach()
        return torch.stack(losses).sum()

    def _clip(self, agent: str) -> Tensor:
        """Clip this agent's gradient norm; returns the norm before."""
        return full(torch.nn.utils.clip_grad_norm_(self.adapters.parameters(agent), self._clip_norm))

    @contextmanager
    def _sync_gradients(self, last: bool) -> Iterator[None]:
        """Reduce gradients over ranks only in the last micro-batch."""
        wrapped = self.trainer.model
        if self.device_mesh is not None:
            self._policy.set_requires_gradient_sync(last)
        if not last and hasattr(wrapped, "no_sync"):
            with wrapped.no_sync():
                yield
        else:
            yield

    # ------------------------------------------------------------------ numbers
    def on_train_epoch_end(self) -> None:
        """Callbacks of this hook ran before, checkpoints come after."""
        numbers = {f"seconds/{phase}": seconds for phase, seconds in self.data.seconds.items()}
        made = sum(len(a.completion_ids) for e in self.data.episodes for a in e.own)
        trained = needed_tokens(self.data.rows)
        made, trained = (sum(values) for values in zip(*gather((made, trained)), strict=True))
        if numbers.get("seconds/generate"):
            numbers["tokens_per_second/generate"] = made / numbers["seconds/generate"]
        if numbers.get("seconds/update"):
            numbers["tokens_per_second/update"] = trained / numbers["seconds/update"]
        self.log_dict(numbers)
        self.data.finish_epoch()

    def _log_rollout(self, prepared: Prepared) -> None:
        episodes, verdicts = self.data.everyone()
        numbers = rollout_metrics([self.data.with_grade(e) for e in episodes], verdicts, self.agents)
        for line in truncation_lines(numbers, self.agents):
            log.warning("epoch %d: %s", self.data.epoch, line)
        sums: Counter[str] = Counter()
        for row in prepared.rows:
            agent = row.sample.action.agent
            sums[f"{agent}/tokens"] += len(row.advantages)
            for name, values in prepared.per_token.items():
                if row.sample.action.id in values:
                    sums[f"{agent}/{name}"] += values[row.sample.action.id].sum().item()
        totals = added(sums)
        for key, value in totals.items():
            agent, _, name = key.partition("/")
            if name != "tokens":
                numbers[key] = value / totals[f"{agent}/tokens"]
        self.log_dict(numbers | prepared.metrics, on_step=False, on_epoch=True)

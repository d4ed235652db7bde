"""The measurements, each a table: case -> numbers."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mappa.bench.shapes import PUBLISHED, Setting
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.engine.hf import HFEngine
from mappa.learn.batch import at_loss, collate, parts
from mappa.learn.loss import LossConfig, policy_loss
from mappa.learn.packing import computed_tokens, cut_micro_batches
from mappa.learn.policies import Old, TeamPolicies
from mappa.learn.rows import Row, acts, needed_tokens
from mappa.policy.attention import Packing, packing_of
from mappa.policy.footprint import Meter
from mappa.policy.forward import Policy
from mappa.policy.lora import Adapters
from mappa.report.cost import GIB, MFU
from mappa.types import Action, Sample, StopReason

AGENTS = tuple(f"agent{number}" for number in range(8))
CONTEXTS = (16, 64, 256, 1024, 4096, 16384)
Numbers = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Ids:
    """What the hf engine needs of a chat."""

    stop_ids: tuple[int, ...] = (2,)
    pad_id: int = 0


# ---------------------------------------------------------------------- engine
def engine(setting: Setting) -> Numbers:
    """48 requests of 64 tokens each, for 1 to 8 agents; sampled until a budget of 32 tokens.

    A large model on a CPU has 8 requests, and a budget of 8.
    """
    found: Numbers = {}
    adapters = setting.adapters(AGENTS)
    size = (48, 32) if setting.device == "cuda" or setting.shape == "tiny" else (8, 8)
    for count in (1, 2, 4, 8):
        said = 0

        def work(count: int = count) -> None:
            nonlocal said
            said = sum(len(one.token_ids) for one in asyncio.run(_sample(adapters, AGENTS[:count], *size)))

        numbers = setting.time(work)
        metered = Metered()
        asyncio.run(_sample(adapters, AGENTS[:count], *size, metered))
        found[f"{count} agents"] = numbers | {
            "tokens": said,
            "tokens/s": said / numbers["seconds"],
            "GiB": metered.peak / GIB,
        }
    return found


class Metered(HFEngine):
    """Knows the peak bytes of the tensors of its batches, the KV cache among them."""

    peak = 0

    def _generate(self, batch: Sequence[Any]) -> Any:
        with Meter(list(self._adapters.model.parameters())) as meter:
            made = super()._generate(batch)
        self.peak = max(self.peak, meter.peak)
        return made


async def _sample(
    adapters: Adapters, agents: Sequence[str], requests: int, budget: int, made: HFEngine | None = None
) -> list[Completion]:
    made, rng = made or HFEngine(), random.Random(0)
    made.attach(adapters, Ids(), "")

    async def ask(index: int) -> Completion:
        prompt_ids = [rng.randrange(3, 300) for _ in range(64)]
        async with made.lane():
            return await made.generate(agents[index % len(agents)], prompt_ids, Sampling(budget, seed=index))

    try:
        return await asyncio.gather(*(ask(index) for index in range(requests)))
    finally:
        await made.close()


# ---------------------------------------------------------------------- update
def update(setting: Setting) -> Numbers:
    """Loss and gradients of about as many tokens in every case; a step of the optimizer is left out."""
    found: Numbers = {}
    adapters = setting.adapters(AGENTS)
    policies = TeamPolicies(Policy(adapters, 1.0, 1024), adapters, 0, setting.tokens, 1.0, lambda: Old.NOT_NEEDED)
    limit = min(setting.tokens, adapters.base.config.max_position_embeddings)
    row = min(128, limit)
    for count in (1, 2, 4, 8):
        found[f"{count} agents"] = _update(setting, policies, rows([row] * (setting.tokens // row), 1, AGENTS[:count]))
    one_by_one = rows([row] * (setting.tokens // row), 1, AGENTS)
    found["8 agents, a pass each"] = _update(setting, policies, one_by_one, mix=False)
    for turns in (1, 2, 4, 8):
        made = rows([limit] * max(1, setting.tokens // limit), turns, AGENTS[:1])
        found[f"{turns} turns an act"] = _update(setting, policies, made)
        if turns == 8:
            alone = [Row(r.sample, r.advantages, group=r.sample.action.id) for r in made]
            found["8 turns, a row each"] = _update(setting, policies, alone)
    for samples in (1, 4, 16):
        made = rows([row] * (setting.tokens // row), 1, AGENTS[:1], samples)
        found[f"{samples} samples a prompt"] = _update(setting, policies, made)
    found["16 samples, a row each"] = _update(setting, policies, made, packing=Packing.ALONE)
    found["mixed lengths"] = _update(setting, policies, rows(_mixed(setting.tokens, limit), 1, AGENTS[:3]))
    for length in (length for length in CONTEXTS if length <= limit):
        made = rows([length] * (setting.tokens // length), 1, AGENTS[:3])
        found[f"context {length}"] = _update(setting, policies, made)
    if setting.device == "cuda" and setting.shape in PUBLISHED:
        found["prime-rl, as published"] = PUBLISHED[setting.shape]
    return found


def _mixed(tokens: int, longest: int) -> list[int]:
    """Lengths from 16 on, short ones more often than long ones, of so many tokens together."""
    rng, lengths = random.Random(0), []
    while sum(lengths) < tokens:
        lengths.append(min(round(16 * (longest / 16) ** rng.random()), tokens - sum(lengths)))
    return [length for length in lengths if length > 1]


def rows(lengths: Sequence[int], turns: int, agents: Sequence[str], samples: int = 0) -> list[Row]:
    """Acts of so many tokens, of which each turn's second half was said by the agent.

    Args:
        samples: of each prompt, which is then seven eighths of an act; 0 = a prompt for each.
    """
    rng, made = random.Random(0), []
    asked: list[int] = []
    for index, length in enumerate(lengths):
        each = max(2, length // turns)
        start, ids = each // 2, [rng.randrange(3, 300) for _ in range(each * turns)]
        if samples:
            start = each - max(1, each // 8)
            asked = asked if index % samples else ids[:start]
            ids[:start] = asked
        for turn in range(turns):
            start, end = turn * each + start % each, (turn + 1) * each
            said = tuple(ids[start:end])
            action = Action(
                f"{index:06d}/{turn}",
                agents[index % len(agents)],
                *("", turn, (), tuple(ids[:start]), said, (-1.0,) * len(said)),
                *(StopReason.STOP, "", 0),
            )
            made.append(Row(Sample(action, "", "", 1.0), torch.ones(len(said))))
    return made


def _update(
    setting: Setting, policies: TeamPolicies, rows: Sequence[Row], mix: bool = True, packing: Packing | None = None
) -> dict[str, float | None]:
    """`packing`: None = as the model's attention allows."""
    size = sum(len(row.advantages) for row in rows)
    needed = sum(act[-1].length for act in acts([Row(row.sample, row.advantages) for row in rows]))
    packing = packing or packing_of(policies.adapters.base)
    micro = cut_micro_batches(rows, setting.tokens, mix=mix, packing=packing)

    def work() -> None:
        for part in micro:
            batch = collate(part, 0)
            logprobs_N, _ = policies.forward(batch)
            losses = []
            for _, where, mine in parts(batch):
                now, weights = logprobs_N[where], at_loss(mine.advantages_BT, mine, logprobs_N.device)
                losses.append(
                    policy_loss(now, now.detach(), now.detach(), weights, torch.ones_like(now), size, LossConfig())[0]
                )
            torch.stack(losses).sum().backward()
        policies.adapters.model.zero_grad()

    existing = list(policies.adapters.model.parameters())
    with FlopCounterMode(display=False) as counter, Meter(existing) as meter:
        work()
    numbers = setting.time(work)
    computed = computed_tokens(micro)
    return {
        "needed": needed,
        "computed/needed": computed / needed,
        **numbers,
        "tokens/s": needed / numbers["seconds"],
        "TFLOP": counter.get_total_flops() / 1e12,
        "GiB": meter.peak / GIB,
        "kernels": meter.kernels,
        "share of peak": setting.share_of_peak(counter.get_total_flops(), numbers["seconds"]),
    }


# ---------------------------------------------------------------------- epoch
def epoch(setting: Setting) -> Numbers:
    """The second epoch of a quickstart: the first one also loads things. `needed` is its update's."""
    del setting  # it is the quickstart as it is
    return {"quickstart, 48 episodes": quickstart_epoch()[0]}


@dataclass(frozen=True)
class Said:
    """By one agent in an epoch."""

    max_tokens: int
    """Its completion budget."""
    actions: Sequence[Action]


def quickstart_epoch(*words: str) -> tuple[dict[str, float | None], list[Said]]:
    """Seconds by phase of the quickstart's second epoch, and what each agent said in it; validation is left out."""
    from lightning import Callback

    from mappa.config import compose, make, register_resolvers
    from mappa.train import build, cheap_parts, prepare

    class Watch(Callback):
        """Told before the next epoch's rollout, and after all other work of an epoch."""

        def __init__(self) -> None:
            self.marks: list[tuple[float, float]] = []
            self.phases: dict[str, float] = {}
            self.said: list[Said] = []
            self.before = 0

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.marks.append((time.monotonic(), time.process_time()))
            self.phases = {phase: round(seconds, 3) for phase, seconds in trainer.datamodule.seconds.items()}
            computed = trainer.datamodule.engine.computed
            self.spoken, self.before = computed - self.before, computed
            actions = [action for episode in trainer.datamodule.episodes for action in episode.own]
            self.said = [
                Said(agent.max_tokens, [action for action in actions if action.seat == seat])
                for seat, agent in trainer.datamodule.team.agents.items()
            ]
            self.tokens = dict(pl_module.tokens)
            pl_module.tokens.clear()

    register_resolvers()
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose(["+experiment=quickstart", f"paths.run={folder}", f"paths.outputs={folder}", *words])
        prepare(cfg)
        data, module = build(cfg, cheap_parts(cfg))
        watch = Watch()
        try:
            callbacks = [make(cfg.callbacks.judge, _convert_="all"), watch]
            settings = {"max_epochs": 2, "enable_checkpointing": False}
            make(cfg.trainer, callbacks=callbacks, logger=False, **settings).fit(module, data)
        finally:
            data.close()
        assert not list(Path(folder).glob("checkpoints"))
    (wall, cpu), (wall_after, cpu_after) = watch.marks
    said = [Row(Sample(action, "", "", None), torch.empty(0)) for agent in watch.said for action in agent.actions]
    spoken = needed_tokens(said)
    numbers = {
        "seconds": wall_after - wall,
        "processor seconds": cpu_after - cpu,
        "completions": sum(len(agent.actions) for agent in watch.said),
        "needed": watch.tokens["needed"],
        "computed/needed": watch.tokens["computed"] / watch.tokens["needed"],
        "rollout: needed": spoken,
        "rollout: computed/needed": watch.spoken / spoken,
        **watch.phases,
    }
    return numbers, watch.said


# ---------------------------------------------------------------------- plan
def plan(setting: Setting) -> Numbers:
    """The planner against one pass at several shapes. On a GPU its seconds are those of the share of the peak that it
    takes for granted; without one, of the mean of all cases."""
    from mappa.bench.planned import compare

    peak = setting.peak()
    return compare(setting.dtype, setting.device == "cuda", None if peak is None else MFU * peak)


# ---------------------------------------------------------------------- judge
class _Slow(BaseEngine):
    """Takes 1 s an action, as many at once as are asked for."""

    context_length = 4096
    shares_weights = takes_weights = False

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        await asyncio.sleep(1.0)
        return Completion((5,), (0.0,), StopReason.STOP, 0)


def judge(setting: Setting) -> Numbers:
    """Four seats that speak for 1 s each, and a judge that takes 1 s: 5 s at best, one judge call after the last."""
    del setting
    from mappa.bench.judging import judged_rollout

    alone, both = judged_rollout(_Slow(), seconds=0.0), judged_rollout(_Slow(), seconds=1.0)
    return {"no judge": alone | {"ideal": 4.0}, "a judge of 1 s": both | {"ideal": 5.0}}

"""TRL's GRPO and an epoch here, in turn in one process: the same model, prompts, budgets and numbers of completions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from mappa.bench.parts import Numbers, Said, quickstart_epoch
from mappa.config import ASSETS


def compare(repeats: int) -> Numbers:
    """Seconds for the completions of an epoch. TRL trains one policy at a time: a team takes one step for each agent.

    TRL is given the very prompts of the epoch before, half of them twice, since GRPO compares completions of a prompt.
    An epoch here has kernels, judge and reference policy in it; TRL's step has neither kernel nor judge. Processor
    seconds are those of this process: kernels have their own.
    """
    found: list[tuple[Counter[str], Counter[str]]] = []
    for _ in range(repeats):
        ours, said = quickstart_epoch("data.tasks_per_epoch=32", "data.updates_per_epoch=1")
        mine = Counter({key: ours[key] for key in ("seconds", "processor seconds", "completions")})
        mine["tokens"] = sum(len(action.completion_ids) for agent in said for action in agent.actions)
        found.append((sum((_trl(agent) for agent in said), Counter()), mine))
    trl, ours = (min((pair[side] for pair in found), key=lambda one: one["processor seconds"]) for side in (0, 1))
    each = {key: {"trl": trl[key] / trl["completions"], "here": ours[key] / ours["completions"]} for key in ours}
    ratio = {key: each[key]["here"] / each[key]["trl"] for key in ours}
    return {"trl, a step an agent": dict(trl), "an epoch here": dict(ours), "ratio for as many": ratio}


def _trl(said: Said) -> Counter[str]:
    """The second of two steps of GRPO with a LoRA of rank 16 and a reward that means nothing."""
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[tuple[float, float]] = []
    tokens: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            marks.append((time.monotonic(), time.process_time()))

    def reward(completion_ids: Sequence[Sequence[int]], **_: object) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [float(len(ids) % 3) for ids in completion_ids]

    path = str(ASSETS / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = [tokenizer.decode(action.prompt_ids) for action in said.actions[: len(said.actions) // 2]]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=2 * len(prompts),
            num_generations=2,
            max_completion_length=said.max_tokens,
            max_steps=2,
            beta=0.01,
            learning_rate=1e-4,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(path, dtype="float32"),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Watch()],
        ).train()
    (wall, cpu), (wall_after, cpu_after) = marks
    numbers = {"seconds": wall_after - wall, "processor seconds": cpu_after - cpu}
    return Counter(numbers | {"completions": 2 * len(prompts), "tokens": tokens[-1]})

"""TRL's GRPO and an epoch here, in turn in one process: the same model, and as many completions of the same length."""

from __future__ import annotations

import time

from mappa.bench.parts import Numbers, quickstart_epoch
from mappa.config import ASSETS

COMPLETIONS, TOKENS = 64, 29


def compare(repeats: int) -> Numbers:
    """Seconds for 64 completions of an agent. TRL trains one policy at a time: a team takes one step for each agent.

    An epoch here has kernels, judge and reference policy in it; TRL's step has neither kernel nor judge.
    """
    found: list[tuple[dict[str, float], dict[str, float]]] = []
    for _ in range(repeats):
        ours = quickstart_epoch("data.tasks_per_epoch=32", "data.updates_per_epoch=1")
        found.append((_trl(), {key: ours[key] for key in ("seconds", "processor seconds", "completions")}))
    trl, ours = (min((pair[side] for pair in found), key=lambda one: one["processor seconds"]) for side in (0, 1))
    share = trl["completions"] / ours["completions"]
    each = {key: ours[key] * share for key in ("seconds", "processor seconds")} | {"completions": trl["completions"]}
    ratio = {key: each[key] / trl[key] for key in ("seconds", "processor seconds")}
    return {"trl, one step": trl, "an epoch here": ours, "here, for as many": each, "ratio": ratio}


def _trl() -> dict[str, float]:
    """The second of two steps of GRPO with a LoRA of rank 16 and a constant reward."""
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[tuple[float, float]] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            marks.append((time.monotonic(), time.process_time()))

    path = str(ASSETS / "tiny")
    prompts = [f"Compute {n} + 2*3 + 4 - 5*6. " * 4 for n in range(1, 65)]  # 72 tokens, as here on average
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=COMPLETIONS,
            num_generations=2,
            max_completion_length=TOKENS,
            generation_kwargs={"min_new_tokens": TOKENS},
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
            reward_funcs=lambda completions, **_: [float(len(text) % 3) for text in completions],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=AutoTokenizer.from_pretrained(path),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Watch()],
        ).train()
    (wall, cpu), (wall_after, cpu_after) = marks
    return {"seconds": wall_after - wall, "processor seconds": cpu_after - cpu, "completions": COMPLETIONS}

"""Make a tiny base model for a quickstart: `python -m mappa.tiny [NAME] [--out FOLDER]`.

A Qwen3-architecture model of under a million parameters with its own byte-level tokenizer is imitation-trained on
demonstrations of the experiment's team that have flaws on purpose. So the untrained team is right about half of the
time when it is sampled at temperature 1, and has something to learn. The flaws are in the demonstrations only.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mappa.command import help_text, run_guarded
from mappa.config import ASSETS, compose

NAMES = ("arithmetic", "debate", "relay", "relay_chain", "tabular")


def make(name: str, out: Path | None, steps: int | None, seed: int) -> tuple[Path, float]:
    """Returns the folder written, and the mean loss of the last steps."""
    import torch

    from mappa.policy.chat import Chat
    from mappa.tiny.imitation import Example, imitate, make_model, make_tokenizer

    shown = importlib.import_module(f"mappa.tiny.{name}")
    recipe = shown.RECIPE
    cfg = compose([f"+experiment={recipe.experiment}"])
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(shown.texts(cfg, seed), recipe)
    model = make_model(len(tokenizer), recipe)
    stream = shown.examples(cfg, Chat(tokenizer), seed)

    def batches() -> Iterator[list[Example]]:
        while True:
            yield list(islice(stream, recipe.batch))

    loss = imitate(model, batches(), recipe.steps if steps is None else steps, recipe.rate)
    folder = out or ASSETS / recipe.folder
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=help_text(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=NAMES, default="arithmetic", help="whose demonstrations")
    parser.add_argument("--out", type=Path, help="folder to write (default: the shipped one)")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    folder, loss = make(**vars(parser.parse_args()))
    print(f"{folder}: loss {loss:.3f} per token")  # noqa: T201 command-line output


if __name__ == "__main__":
    run_guarded(main)

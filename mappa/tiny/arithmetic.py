"""Make the tiny model that the quickstart trains: `python -m mappa.tiny [--out FOLDER] [--steps N]`.

A Qwen3-architecture model of about 2M parameters with its own byte-level tokenizer is imitation-trained on
demonstrations of the mathchat team that are noisy on purpose: drafts that drop or change a term, code with a wrong
operator or a missing bracket, reports that miscopy a digit. So the untrained team is right about half of the time when
it is sampled at temperature 1, and has something to learn. The noise is in the demonstrations only.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mappa.chat import Chat
from mappa.config import ASSETS, CONF, register_resolvers
from mappa.task.arithmetic import problem
from mappa.text import fill
from mappa.types import Message

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Turn = tuple[Sequence[Message], str]
"""What an agent sees, and what the demonstration lets it say."""


def noisy_terms(rng: random.Random, expression: str, rate: float) -> str:
    """Copy an expression; with probability `rate` drop a term, swap an operator, or change a digit."""
    if rng.random() >= rate:
        return expression
    slip = rng.choice(["drop", "operator", "digit"])
    if slip == "drop":
        parts = re.split(r" (?=[+-])", expression)
        del parts[rng.randrange(1, len(parts))]
        return " ".join(parts)
    places = [m.start() for m in re.finditer(r"[+*-]" if slip == "operator" else r"\d", expression)]
    at = rng.choice(places)
    others = {"operator": "+-*", "digit": "123456789"}[slip].replace(expression[at], "")
    return expression[:at] + rng.choice(others) + expression[at + 1 :]


def noisy_number(rng: random.Random, number: str, rate: float) -> str:
    """Copy a number; with probability `rate` change a digit, drop one, or lose the sign."""
    if rng.random() >= rate:
        return number
    digits = [index for index, char in enumerate(number) if char.isdigit()]
    at = rng.choice(digits)
    slip = rng.choice(["change", "drop", "sign"])
    if slip == "sign":
        return number[1:] if number[0] == "-" else "-" + number
    if slip == "drop" and len(digits) > 1:
        return number[:at] + number[at + 1 :]
    return number[:at] + rng.choice("0123456789".replace(number[at], "")) + number[at + 1 :]


def run_code(code: str) -> str:
    """What a Python kernel answers to a demonstration's one-line program, in short."""
    inner = re.fullmatch(r"print\((.*)\)", code)
    if inner is None:
        return "[sandbox] the code ran without output" if code.count("(") == code.count(")") else "SyntaxError"
    return str(eval(inner[1], {"__builtins__": {}}))


def demonstrate(rng: random.Random, agents: Mapping[str, Any]) -> list[Turn]:
    """All turns of the team on one random problem, slips included."""
    task = problem([rng.randint(1, 30) for _ in range(6)])
    expression = task.metadata["expression"]
    turns: list[Turn] = []

    def opening(name: str, **values: str) -> list[Message]:
        text = fill(agents[name]["prompt"], {"task": task.question, **values})
        return [Message("system", agents[name]["system"]), Message("user", text)]

    draft = noisy_terms(rng, expression, 0.26)
    turns.append((opening("solver"), draft))

    source = draft if rng.random() < 0.6 else expression
    code = f"print({noisy_terms(rng, source, 0.2)})"
    slip = rng.random()
    code = code[:-1] if slip < 0.04 else code[6:-1] if slip < 0.06 else code
    seen = opening("executor", solver=draft)
    said = f"```python\n{code}\n```"
    turns.append((seen, said))
    result = run_code(code)
    seen = [
        *seen,
        Message("assistant", said),
        Message("user", fill(agents["executor"]["observation"], {"tool": result})),
    ]
    if re.fullmatch(r"-?\d+", result):
        turns.append((seen, f"Result: {noisy_number(rng, result, 0.1)}"))
    else:
        code = f"print({noisy_terms(rng, source, 0.15)})"
        turns.append((seen, f"```python\n{code}\n```"))
        result = run_code(code)
    turns.append(
        (
            opening("verifier", solver=draft, executor_tool=result),
            f"\\boxed{{{noisy_number(rng, result, 0.24)}}}",
        )
    )
    return turns


def make_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        model_max_length=1024,
    )


def make_model(vocabulary: int, layers: int, width: int) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<|endoftext|>"),
    )
    return Qwen3ForCausalLM(config)


def encode(chat: Chat, turn: Turn) -> tuple[list[int], int]:
    """Token ids of a demonstrated turn, and how many of them are the prompt."""
    prompt = chat.render(turn[0])
    said = chat.tokenizer.encode(turn[1], add_special_tokens=False)
    return [*prompt, *said, chat.eos_id], len(prompt)


def imitate(model: Qwen3ForCausalLM, batches: Iterator[list[tuple[list[int], int]]], steps: int, rate: float) -> float:
    """Maximum likelihood on what the demonstrations say; returns the mean loss of the last tenth of the steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for _, rows in zip(range(steps), batches, strict=False):
        width = max(len(ids) for ids, _ in rows)
        input_ids = torch.full((len(rows), width), model.config.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        for index, (ids, prompt) in enumerate(rows):
            input_ids[index, : len(ids)] = torch.tensor(ids)
            labels[index, prompt : len(ids)] = torch.tensor(ids[prompt:])
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return sum(losses[-len(losses) // 10 :]) / max(1, len(losses) // 10)


def make(out: Path, steps: int, layers: int, width: int, batch: int, rate: float, seed: int) -> float:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    register_resolvers()
    with initialize_config_dir(str(CONF), version_base=None):
        agents = OmegaConf.to_container(compose("train", ["+experiment=quickstart"]).team.agents)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    corpus = [demonstrate(rng, agents) for _ in range(500)]
    texts = (
        f"{m.role}\n{m.content}"
        for turns in corpus
        for seen, said in turns
        for m in [*seen, Message("assistant", said)]
    )
    tokenizer = make_tokenizer(texts, vocabulary=384)
    chat = Chat(tokenizer)
    model = make_model(len(tokenizer), layers, width)

    def batches() -> Iterator[list[tuple[list[int], int]]]:
        rows: list[tuple[list[int], int]] = []
        while True:
            rows += [encode(chat, turn) for turn in demonstrate(rng, agents)]
            if len(rows) >= batch:
                yield rows[:batch]
                rows = rows[batch:]

    loss = imitate(model, batches(), steps, rate)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS / "tiny", help="folder to write (default: the shipped one)")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    loss = make(**vars(args))
    print(f"{args.out}: loss {loss:.3f} per token")  # noqa: T201 command-line output


if __name__ == "__main__":
    main()

"""A tokenizer and a small model, trained to imitate demonstrations."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mappa.policy.chat import Chat

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Example = tuple[list[int], list[int]]
"""Token ids, and as many labels: the same where the demonstrator speaks, UNLEARNED elsewhere."""
UNLEARNED = -100
_WORDS = r"(?<!\d)-?\d+|(?<!\p{L})\p{L}(?!\p{L})| ?\p{L}{2,}| [^\s\p{L}\d](?!\d)|[^\s\p{L}\d]|\s"
"""Where whole numbers are tokens: `29-56=-27` is 29 - 56 = -27. A letter by itself is the same token everywhere."""
_OFTEN = 1000
"""Each whole number is shown this many times, so that it is merged into one token before any word is."""


@dataclass(frozen=True)
class Recipe:
    """What `python -m mappa.tiny NAME` makes."""

    experiment: str
    """Whose team is demonstrated."""
    folder: str
    """Under assets/."""
    vocabulary: int
    token_bytes: int | None
    """Longest token, which may then span words; None = any length within a word."""
    context: int
    """Most tokens of prompt and completion."""
    layers: int
    width: int
    batch: int
    """Examples a step."""
    steps: int
    rate: float
    """Highest learning rate."""
    whole_numbers: tuple[int, int] | None = None
    """First and last of the integers that are one token each; None = every digit is a token of its own."""


def make_tokenizer(texts: Iterator[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit, or every whole number, is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    if recipe.whole_numbers is None:
        numbers = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=recipe.token_bytes is None)
    else:
        numbers = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        first, last = recipe.whole_numbers
        texts = chain((str(number) for number in range(first, last + 1) for _ in range(_OFTEN)), texts)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([numbers, words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=recipe.token_bytes,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        model_max_length=recipe.context,
    )


def make_model(vocabulary: int, recipe: Recipe) -> Qwen3ForCausalLM:
    heads = recipe.width // 32
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 8 // 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=32,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<|endoftext|>"),
    )
    return Qwen3ForCausalLM(config)


def spoken(chat: Chat, said: str) -> list[int]:
    """What a demonstrator says, as tokens, its turn ended."""
    return [*chat.tokenizer.encode(said, add_special_tokens=False), chat.eos_id]


def example(chat: Chat, context: Sequence[int], said: str) -> Example:
    """`said` is learned in its context."""
    ids = spoken(chat, said)
    return [*context, *ids], [UNLEARNED] * len(context) + ids


def like_lengths(rows: Iterable[Example], batch: int, rng: random.Random) -> Iterator[Example]:
    """The same examples, those of like length in one batch, and the batches in a new order."""
    ordered = sorted(rows, key=lambda row: len(row[0]))
    batches = [ordered[i : i + batch] for i in range(0, len(ordered), batch)]
    rng.shuffle(batches)
    for rows_of_one in batches:
        yield from rows_of_one


def imitate(model: Qwen3ForCausalLM, batches: Iterator[list[Example]], steps: int, rate: float) -> float:
    """Maximum likelihood on what the demonstrations say; returns the mean loss of the last tenth of the steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for _, rows in zip(range(steps), batches, strict=False):
        width = max(len(ids) for ids, _ in rows)
        input_ids = torch.full((len(rows), width), model.config.pad_token_id)
        labels = torch.full((len(rows), width), UNLEARNED)
        for index, (ids, learned) in enumerate(rows):
            input_ids[index, : len(ids)] = torch.tensor(ids)
            labels[index, : len(ids)] = torch.tensor(learned)
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return sum(losses[-len(losses) // 10 :]) / max(1, len(losses) // 10)

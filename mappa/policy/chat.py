"""The tokenizer boundary: messages -> token ids, and back. Sampled tokens are never re-made from text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mappa.text import REASONING, in_reasoning
from mappa.types import Message
from sandbox.kernel.text import head_tail

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\u2402mappa\u2403"


class Chat:
    """A tokenizer with its chat template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Mapping[str, Any] | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        """
        Args:
            template: extra keyword arguments of the chat template, e.g. `enable_thinking: false`.
            stop_ids: tokens with which the model ends a turn, beside the tokenizer's own.
        """
        self.tokenizer = tokenizer
        self.stop_ids = tuple(dict.fromkeys((self.eos_id, *stop_ids)))
        """Tokens that end a completion, the tokenizer's own first."""
        self._template = dict(template or {})
        self._special = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.eos_id if pad is None else pad

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of the conversation with the assistant's turn opened."""
        return self._encode(self._text(messages))

    def extend(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], messages: Sequence[Message]
    ) -> tuple[int, ...]:
        """Context of an agent's next turn: what it saw, what it sampled, then `messages` and a newly opened turn.

        Earlier tokens are kept as they are, also where the template would rewrite history (e.g. drop reasoning).
        """
        text = self._text([Message("user", "?"), Message("assistant", _MARK), *messages])
        suffix = self._encode(text.rpartition(_MARK)[2])
        if completion_ids and completion_ids[-1] == suffix[0]:  # the end-of-turn token was sampled already
            suffix = suffix[1:]
        return (*prompt_ids, *completion_ids, *suffix)

    @cached_property
    def opened(self) -> tuple[int, ...]:
        """An assistant's turn, opened after nothing: the context of a message that stands by itself."""
        return self._encode(self._opening)

    @cached_property
    def _opening(self) -> str:
        before = self._text([Message("user", _MARK)])
        closed = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=False, **self._template
        )
        return before.removeprefix(closed)

    def said(self, ids: Sequence[int]) -> str:
        """What an assistant's turn says: as decoded, with the reasoning's opening tag first where the prompt has it."""
        return (REASONING if in_reasoning(self._opening) else "") + self.decode(ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def clean(self, text: str) -> str:
        """Remove every string that would be parsed as a special token, also those that removal puts together."""
        before = None
        while before != text:
            before = text
            for token in self._special:
                text = text.replace(token, "")
        return text

    def cut(self, text: str, max_tokens: int) -> str:
        """Cut to head + tail so that the text takes at most about `max_tokens` tokens."""
        count = len(self._encode(text)) if len(text) > max_tokens else 0  # a token is at least one character
        if count <= max_tokens:
            return text
        return head_tail(text, max(1, len(text) * max_tokens // count))

    def _text(self, messages: Sequence[Message]) -> str:
        conversation = [{"role": message.role, "content": message.content} for message in messages if message.content]
        return self.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, **self._template
        )

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))  # its length is our business

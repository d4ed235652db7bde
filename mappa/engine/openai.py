"""Rollouts by an OpenAI-compatible server, for frozen agents and for inference on another machine.

Tokens in, tokens out also here: the server must take token ids as the prompt and give the sampled ids back, as vLLM's
`/v1/completions` does (`return_token_ids`). Adapters are served under names of their own, e.g. by
`vllm serve BASE --enable-lora --lora-modules solver=RUN/solver --logprobs-mode processed_logprobs`. Without that last
option the server's log-probabilities are those at temperature 1, whatever the sampling temperature.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.errors import EngineError
from mappa.types import StopReason

if TYPE_CHECKING:
    from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

    from mappa.policy.chat import Chat
    from mappa.policy.lora import Adapters


class OpenAIEngine(BaseEngine):
    """Serves whatever weights the server has: they cannot be updated from here, so agents that learn are refused."""

    takes_weights = False

    def __init__(
        self,
        base_url: str,
        model: str,
        models: Mapping[str, str] | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        context_length: PositiveInt | None = None,
        timeout_s: PositiveFloat = 600.0,
        retries: NonNegativeInt = 4,
    ) -> None:
        """
        Args:
            base_url: e.g. `http://gpu-box:8000/v1`.
            model: name under which the server knows the policy.
            models: agent -> name, for agents with an adapter (or a model) of their own.
            api_key_env: environment variable with the key; may be unset where the server asks for none.
            context_length: most tokens of prompt + completion; None = the model's own.
            timeout_s: of one request.
            retries: of a request that failed for a passing reason (connection, 429, 5xx), with backoff.
        """
        self._base_url = base_url
        self._model = model
        self._models = dict(models or {})
        self._api_key_env = api_key_env
        self._requested_length = context_length
        self._timeout_s = timeout_s
        self._retries = retries
        self._client: Any = None
        self._version: int | None = None

    def attach(self, adapters: Adapters, chat: Chat, model_path: str) -> None:
        self._chat = chat
        limit = adapters.base.config.max_position_embeddings
        self.context_length = min(self._requested_length or limit, limit)

    async def sync(self, version: int) -> None:
        """Remember the version that is served.

        Raises:
            EngineError: the weights have changed since the first call; the server still has the old ones.
        """
        if self._version not in (None, version):
            raise EngineError(
                f"engine=openai serves fixed weights (version {self._version}) and cannot be given version {version}; "
                "train with engine=hf or engine=vllm"
            )
        self._version = version

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        if len(prompt_ids) + sampling.max_tokens > self.context_length:
            raise EngineError(
                f"prompt of {len(prompt_ids)} tokens + completion budget {sampling.max_tokens} exceeds the context "
                f"of {self.context_length} tokens"
            )
        with self.idle.working():
            choice = await self._complete(self._models.get(agent, self._model), list(prompt_ids), sampling)
        token_ids = (choice.model_extra or {}).get("token_ids")
        logprobs = choice.logprobs.token_logprobs if choice.logprobs is not None else None
        if not token_ids:
            raise EngineError(
                f"{self._base_url} does not give token ids back (vLLM's `return_token_ids`); text cannot be trained "
                "on or handed on exactly: use a vLLM server, or engine=hf"
            )
        if logprobs is None or len(logprobs) != len(token_ids) or None in logprobs:
            raise EngineError(f"{self._base_url} does not give one log-probability per sampled token")
        if choice.finish_reason not in ("stop", "length"):
            raise EngineError(f"{self._base_url} ended a completion with finish_reason={choice.finish_reason}")
        reason = StopReason.STOP if choice.finish_reason == "stop" else StopReason.LENGTH
        return Completion(tuple(token_ids), tuple(logprobs), reason, self._version or 0)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _complete(self, model: str, prompt_ids: list[int], sampling: Sampling) -> Any:
        """The one choice of a completion request.

        Raises:
            EngineError: the server cannot be reached, or refuses.
        """
        import openai

        try:
            reply = await self._connected().completions.create(
                model=model,
                prompt=prompt_ids,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
                logprobs=1,
                extra_body={"return_token_ids": True, "stop_token_ids": list(self._chat.stop_ids)},
            )
        except openai.APIStatusError as error:
            raise EngineError(f"{self._base_url} refuses model '{model}': {_one_line(error)}") from error
        except openai.OpenAIError as error:
            raise EngineError(f"{self._base_url} cannot be reached: {_one_line(error)}") from error
        if not reply.choices:
            raise EngineError(f"{self._base_url} answered without a completion; is it an OpenAI-compatible server?")
        return reply.choices[0]

    def _connected(self) -> Any:
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                base_url=self._base_url,
                api_key=os.environ.get(self._api_key_env) or "none",
                timeout=self._timeout_s,
                max_retries=self._retries,
            )
        return self._client


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

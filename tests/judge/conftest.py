"""A judge on loopback, and judges that talk to it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from mappa.judge import limits
from mappa.judge.openai import OpenAIJudge
from mappa.judge.prompt import Prompt
from tests.judge.server import FakeJudge

KEY = "sk-live-0123456789abcdef"
PROMPT = {
    "system": "Judge {{agent}}.",
    "user": "{{task}}\n{{output}}\n{{feedback}}",
    "correction": "Reply with the score only.",
    "rubrics": {"default": "Be right."},
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """Back-off in hundredths of a second."""
    waits = limits.backoff
    monkeypatch.setattr(
        "mappa.judge.caller.backoff", lambda attempt, after, dice: waits(attempt, after, dice, base=0.01, top=0.1)
    )


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack):
    """`await serve(script, ...)` -> a running `FakeJudge`."""

    async def start(*args, **kwargs) -> FakeJudge:
        return await stack.enter_async_context(FakeJudge(*args, **kwargs))

    return start


@pytest.fixture
def make(stack, tmp_path):
    """`make(url, **settings)` -> a judge with its ledger in `tmp_path`; closed when the test ends."""

    def build(url: str, **settings) -> OpenAIJudge:
        defaults = {
            "model": "m",
            "prompt": Prompt(**PROMPT),
            "base_url": url,
            "api_key": KEY,
            "ledger": str(tmp_path / "judge.sqlite"),
            "timeout_s": 10.0,
            "patience_s": 30.0,
        }
        judge = OpenAIJudge(**(defaults | settings))
        stack.push_async_callback(judge.close)
        return judge

    return build

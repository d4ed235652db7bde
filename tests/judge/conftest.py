"""A judge on loopback, and judges that talk to it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from mappa.judge.llm import limits
from mappa.judge.llm.client import Request
from mappa.judge.llm.judge import LLMJudge
from mappa.judge.llm.limits import Limits
from mappa.judge.llm.money import Money
from mappa.judge.llm.prompt import Prompt
from tests.judge.server import FakeJudge

KEY = "sk-live-0123456789abcdef"
PROMPT = {
    "system": "Judge {{agent}}.",
    "material": "{{task}}\n{{output}}\n{{feedback}}",
    "verdict": "{{facts}}\nReply with the code {{code}}.",
    "correction": "Reply with the score only, code {{code}}.",
    "rubrics": {"default": "Be right."},
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """Back-off in hundredths of a second."""
    waits = limits.backoff
    monkeypatch.setattr(
        "mappa.judge.llm.calls.backoff", lambda attempt, after, dice: waits(attempt, after, dice, base=0.01, top=0.1)
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
def make(stack, tmp_path, monkeypatch):
    """`make(url, **settings)` -> a judge with its ledger in `tmp_path`; closed when the test ends."""

    monkeypatch.setenv("JUDGE_KEY", KEY)

    def build(url: str, **settings) -> LLMJudge:
        defaults = {"timeout_s": 10.0, "patience_s": 30.0} | settings
        parts = {
            name: kind(**{key: defaults.pop(key) for key in kind.__annotations__ if key in defaults})
            for name, kind in (("request", Request), ("limits", Limits), ("money", Money))
        }
        places = {"base_url": url, "api_key_env": "JUDGE_KEY", "ledger": str(tmp_path / "judge.sqlite")}
        judge = LLMJudge(**({"model": "m", "prompt": Prompt(**PROMPT)} | places | parts | defaults))
        stack.push_async_callback(judge.close)
        return judge

    return build

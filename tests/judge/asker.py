"""A process of its own that has actions judged: python -m tests.judge.asker URL LEDGER COUNT; prints the scores."""

from __future__ import annotations

import asyncio
import json
import sys

from mappa.judge.llm.judge import LLMJudge
from mappa.judge.llm.limits import Limits
from mappa.judge.llm.prompt import Prompt
from tests.judge.evidence import evidence

CONCURRENT = 8


async def main(url: str, ledger: str, count: int) -> None:
    prompt = Prompt("Judge.", "{{output}}", "Code {{code}}.", "Again, code {{code}}.", {"default": ""})
    judge = LLMJudge("m", prompt, url, None, ledger=ledger, limits=Limits(CONCURRENT))
    verdicts = await asyncio.gather(*(judge.score(evidence(f"answer {i}")) for i in range(count)))
    await judge.close()
    json.dump({"scores": [v.score for v in verdicts], "cached": sum(v.cached for v in verdicts)}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))

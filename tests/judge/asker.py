"""A process of its own that has actions judged: python -m tests.judge.asker URL LEDGER COUNT; prints the scores."""

from __future__ import annotations

import asyncio
import json
import sys

from mappa.judge.openai import OpenAIJudge
from mappa.judge.prompt import Prompt
from tests.judge.evidence import evidence

CONCURRENT = 8


async def main(url: str, ledger: str, count: int) -> None:
    prompt = Prompt(system="Judge.", user="{{output}}", correction="Again.", rubrics={"default": ""})
    judge = OpenAIJudge("m", prompt, base_url=url, api_key="none", ledger=ledger, max_concurrent=CONCURRENT)
    verdicts = await asyncio.gather(*(judge.score(evidence(f"answer {i}")) for i in range(count)))
    await judge.close()
    json.dump({"scores": [v.score for v in verdicts], "cached": sum(v.cached for v in verdicts)}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))

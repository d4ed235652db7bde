"""What several processes, and a killed one, leave in the ledger."""

import asyncio
import json
import sqlite3
import sys
from pathlib import Path

from tests.judge.asker import CONCURRENT

ROOT = Path(__file__).parents[2]


async def ask(url: str, ledger: Path, count: int) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "tests.judge.asker", url, str(ledger), str(count))
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)


def count(ledger: Path, query: str) -> int:
    with sqlite3.connect(ledger) as db:
        number = db.execute(query).fetchone()[0]
    db.close()
    return number


async def test_a_killed_process_loses_no_verdict_it_paid_for(serve, tmp_path):
    ledger, half = tmp_path / "judge.sqlite", asyncio.Event()
    server = await serve(seconds=0.02)
    good = server.script

    def script(body, seen):
        if server.billed >= 60:
            half.set()
        return good(body, seen)

    server.script = script
    child = await ask(server.url, ledger, 200)
    await asyncio.wait_for(half.wait(), 60)
    child.kill()
    assert await child.wait() == -9
    billed = server.billed
    kept = count(ledger, "SELECT COUNT(*) FROM calls WHERE score = 8")
    assert kept >= 60 - 2 * CONCURRENT
    assert billed - kept <= 2 * CONCURRENT, "lost: at most what was on its way"

    await asyncio.sleep(0.2)
    calls = server.calls
    again = await ask(server.url, ledger, 200)
    out, _ = await asyncio.wait_for(again.communicate(), 120)
    result = json.loads(out)
    assert result["scores"] == [8.0] * 200
    assert result["cached"] == kept
    assert server.calls - calls == 200 - kept, "nothing that was paid for is paid again"
    assert count(ledger, "SELECT COUNT(score) FROM calls") == 200


async def test_two_processes_share_a_ledger_and_pay_once(serve, tmp_path):
    server = await serve(seconds=0.05)
    children = [await ask(server.url, tmp_path / "judge.sqlite", 100) for _ in range(2)]
    results = [json.loads((await asyncio.wait_for(child.communicate(), 120))[0]) for child in children]
    assert [result["scores"] for result in results] == [[8.0] * 100] * 2
    assert server.calls == 100
    assert sum(result["cached"] for result in results) == 100
    assert count(tmp_path / "judge.sqlite", "SELECT COUNT(*) FROM calls") == 100

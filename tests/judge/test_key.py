"""Whole runs with a paid judge: the key is in no file and on no command line, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from mappa.command import check_words
from mappa.errors import ConfigError
from tests.conftest import REPO
from tests.judge.server import GOOD, FakeJudge, is_trial

KEY = "sk-live-0123456789abcdef"
WORDS = [
    *("+experiment=quickstart", "+debug=fast", "judge=openai", "callbacks.judge.max_unjudged=1.0"),
    *("judge.money.price_in=1", "judge.money.price_out=1", "callbacks.validation=null", "trainer.max_epochs=1"),
]


async def command(folder: Path, name: str, *words: str) -> tuple[int, str]:
    """Exit status and stderr of a command that is run in `folder`, with the key in its environment."""
    call = (sys.executable, "-m", f"mappa.{name}", *words)
    paths = {"PYTHONPATH": str(REPO), "OPENAI_API_KEY": KEY}
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*call, cwd=folder, env=os.environ | paths, **pipes)
    out, said = await asyncio.wait_for(process.communicate(), 240)
    return process.returncode, (out + said).decode()


def paid(folder: Path) -> int:
    with sqlite3.connect(folder / "outputs" / "judge.sqlite") as db:
        (count,) = db.execute("SELECT COUNT(*) FROM calls WHERE purpose = 'score'").fetchone()
    db.close()
    return count


@pytest.mark.slow
async def test_no_file_holds_the_key_after_train_stop_resume_crash_and_evaluate(tmp_path: Path):
    async with FakeJudge() as server:
        url = f"judge.base_url={server.url}"
        assert (await command(tmp_path, "train", *WORDS, url))[0] == 0
        run = next((tmp_path / "outputs" / "quickstart").iterdir())
        server.script = lambda body, seen: GOOD if is_trial(body) else f"400:you sent {KEY}"
        status, said = await command(tmp_path, "train", f"resume={run}", "trainer.max_epochs=2")
        assert status == 0, said
        server.script = lambda body, seen: "401"
        status, said = await command(tmp_path, "train", f"resume={run}", "trainer.max_epochs=3")
        assert status == 1
        assert "the API key is refused" in said
        assert KEY not in said
        status, said = await command(tmp_path, "evaluate", f"run={run}", "limit=2", "+callbacks.validation.samples=1")
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert any(path.name.startswith("resumed-") for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    judge = json.loads((run / "summary.json").read_text())["judge"]
    assert judge["trials"] >= 2
    assert judge["calls"] > judge["trials"]


@pytest.mark.slow
async def test_a_run_that_died_in_its_first_epoch_is_begun_anew_for_nothing(tmp_path: Path):
    """Its verdicts are not in its folder."""
    async with FakeJudge(seconds=0.3) as server:
        url = f"judge.base_url={server.url}"
        call = (sys.executable, "-m", "mappa.train", *WORDS, url)
        settings = os.environ | {"PYTHONPATH": str(REPO), "OPENAI_API_KEY": KEY}
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *call, "judge.limits.concurrent=1", cwd=tmp_path, env=settings, stdout=quiet, stderr=quiet
        )
        while sum(not is_trial(body) for body in server.bodies) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
        server.seconds = 0.0
        known = paid(tmp_path)
        assert known >= 4
        before = server.calls
        assert (await command(tmp_path, "train", *WORDS, url, "data.seed=0"))[0] == 0
        asked = server.calls - before - 1
    assert paid(tmp_path) <= len(server.seen), "none but the one that was on its way, and one of these is the trial"
    assert asked <= paid(tmp_path) - known + 2


@pytest.mark.parametrize("word", ["judge.api_key=sk-1", "+judge.api_key=sk-1", "judge.request.extra_body.api_key=sk-1"])
def test_a_key_on_the_command_line_is_refused(word: str):
    with pytest.raises(ConfigError, match=r"export it and name the variable: judge.api_key_env=NAME") as caught:
        check_words([word])
    assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-live-0123", "AIzaSyA1b2C3"])
def test_a_key_instead_of_its_name_is_refused(key: str):
    with pytest.raises(ConfigError, match="takes the name of an environment variable") as caught:
        check_words([f"judge.api_key_env={key}"])
    assert key not in str(caught.value)
    check_words(["judge.api_key_env=OPENAI_API_KEY", "judge.api_key_env=null"])

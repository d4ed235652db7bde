"""The ledger without any network: claims, budget, damage, two processes."""

import multiprocessing
import socket
import sqlite3
import subprocess
import sys

import pytest

from mappa.errors import JudgeError
from mappa.judge.ledger import Entry, Grant, Ledger


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "run" / "judge.sqlite")
    yield ledger
    ledger.close()


def entry(key: str = "k", score: float | None = 8.0) -> Entry:
    return Entry(key, "judge", "hash", "model", "task/0", score, "because", "PROCESS_SCORE: 8", 1, 100, 20, 0.5, 1.2)


def dead_owner() -> str:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return f"{socket.gethostname()}:{child.pid}:1"


def test_a_verdict_is_found_by_a_ledger_opened_later(ledger):
    ledger.record(entry())
    again = Ledger(ledger.path)
    found = again.find("k")
    assert (found.score, found.raw, found.tokens_in, found.cost) == (8.0, "PROCESS_SCORE: 8", 100, 0.5)
    assert found.created > 0
    assert again.find("other") is None
    again.close()


def test_every_call_is_summed_and_a_failed_one_holds_what_it_may_have_cost(ledger):
    _, paid = ledger.begin("k", "score", "m", 0.3, None)
    _, lost = ledger.begin("k", "score", "m", 0.3, None)
    _, refused = ledger.begin("k", "score", "m", 0.3, None)
    ledger.finish(paid, "ok", 1.0, (100, 20), 0.2, "8")
    ledger.finish(lost, "timeout", 60.0)
    ledger.finish(refused, "http_500", 0.1, billed=False)
    totals = ledger.totals()
    assert (totals.calls, totals.tokens_in, totals.tokens_out) == (3, 100, 20)
    assert (totals.cost, totals.held) == (0.2, 0.3)


def test_the_budget_waits_for_open_calls_and_then_says_no(ledger):
    grant, first = ledger.begin("a", "score", "m", 0.6, 1.0)
    assert grant is Grant.YES
    assert ledger.begin("b", "score", "m", 0.6, 1.0) == (Grant.WAIT, 0)
    ledger.finish(first, "ok", 1.0, (1, 1), 0.1)
    grant, second = ledger.begin("b", "score", "m", 0.6, 1.0)
    assert grant is Grant.YES
    ledger.finish(second, "timeout", 1.0)
    assert ledger.begin("c", "score", "m", 0.6, 1.0) == (Grant.NO, 0)
    assert ledger.totals().calls == 2


def test_calls_of_a_dead_process_stay_on_the_bill(ledger):
    ledger.begin("a", "score", "m", 0.6, 1.0)
    ledger._db.execute("UPDATE calls SET owner = ?", (dead_owner(),))
    assert ledger.begin("b", "score", "m", 0.6, 1.0) == (Grant.NO, 0)


def test_a_claim_keeps_others_out_until_it_ends(ledger):
    now = [1000.0]
    ledger._clock = lambda: now[0]
    assert ledger.claim("k", 60)
    ledger._owner = "elsewhere:1:1"
    assert not ledger.claim("k", 60)
    now[0] += 61
    assert ledger.claim("k", 60), "it ran out"
    ledger.record(entry())
    ledger._owner = "third:1:1"
    assert ledger.claim("k", 60), "the outcome ended it"
    ledger.release("k")
    ledger._owner = "fourth:1:1"
    assert ledger.claim("k", 60), "it was given up"


def test_the_claim_of_a_dead_process_counts_for_nothing(ledger):
    mine, ledger._owner = ledger._owner, dead_owner()
    assert ledger.claim("k", 600)
    ledger._owner = mine
    assert ledger.claim("k", 600)


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_damaged_file_is_set_aside_and_said_so(tmp_path, caplog, damage):
    path = tmp_path / "judge.sqlite"
    ledger = Ledger(path)
    for index in range(300):
        ledger.record(entry(f"k{index}"))
    ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    whole = path.read_bytes()
    if damage == "header":
        path.write_bytes(b"\0" * 100 + whole[100:])
    elif damage == "middle":
        path.write_bytes(whole[:8192] + b"\xff" * 16384 + whole[24576:])
    else:
        path.write_text("this is no database, it is a note to myself")
    damaged = path.read_bytes()

    ledger = Ledger(path)
    assert ledger.set_aside is not None
    assert ledger.set_aside.read_bytes() == damaged
    assert "damaged" in caplog.text
    assert str(ledger.set_aside) in caplog.text
    assert ledger.find("k1") is None
    ledger.record(entry())
    assert ledger.find("k").score == 8.0
    ledger.close()


def test_somebody_elses_database_is_not_touched(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE precious (x)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(JudgeError, match="no judge ledger"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "judge.sqlite").mkdir()
    with pytest.raises(JudgeError, match="cannot be opened"):
        Ledger(tmp_path / "judge.sqlite")


def _write(path: str, name: str, count: int) -> None:
    ledger = Ledger(path)
    for index in range(count):
        _, call = ledger.begin(f"{name}{index}", "score", "m", 0.0, 100.0)
        ledger.finish(call, "ok", 0.0, (10, 1), 0.001)
        ledger.record(entry(f"{name}{index}"))
    ledger.close()


def test_two_processes_write_one_file(tmp_path):
    path = tmp_path / "judge.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(path), name, 100)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    ledger = Ledger(path)
    assert ledger.totals().calls == 200
    assert ledger.totals().cost == pytest.approx(0.2)
    assert all(ledger.find(f"{name}{index}") for name in "ab" for index in range(100))
    ledger.close()

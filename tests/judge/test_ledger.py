"""The ledger without any network: claims, budget, damage, a full disk, two processes."""

import multiprocessing
import socket
import sqlite3
import subprocess
import sys

import pytest

from mappa.errors import JudgeError
from mappa.judge.llm.ledger import LEASE_SECONDS, Books, Ended, Grant, Ledger


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "run" / "judge.sqlite")
    yield ledger
    ledger.close()


def ask(ledger: Ledger, key: str = "k", hold: float = 0.3, budget: float | None = None) -> tuple[Grant, int]:
    return ledger.begin(key, "score", "task/0", "m", hold, budget)


def judged(ledger: Ledger, key: str = "k", score: float | None = 8.0) -> None:
    ledger.finish(ask(ledger, key)[1], Ended("ok", 1.2, (100, 20), 0.5, True, score, "because", "PROCESS_SCORE: 8"))


def dead_owner() -> str:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return f"{socket.gethostname()}:{child.pid}:1"


def test_a_verdict_is_found_by_a_ledger_opened_later(ledger):
    judged(ledger)
    judged(ledger, "unreadable", None)
    again = Ledger(ledger.path)
    assert (again.find("k").score, again.find("k").reason) == (8.0, "because")
    assert again.find("other") is None
    assert again.find("unreadable") is None
    again.close()


def test_that_there_is_no_verdict_counts_only_where_it_is_final(ledger):
    ledger.conclude("k", "task/0", "m", "refused")
    assert ledger.find("k") is None
    assert ledger.find("k", final=True).reason == "refused"
    assert ledger.totals()["calls"] == 0


def test_every_call_is_summed_and_a_failed_one_holds_what_it_may_have_cost(ledger):
    paid, lost, refused = (ask(ledger, str(i))[1] for i in range(3))
    ledger.finish(paid, Ended("ok", 1.0, (100, 20), 0.2))
    ledger.finish(lost, Ended("timeout", 60.0))
    ledger.finish(refused, Ended("http_500", 0.1, billed=False))
    totals = ledger.totals()
    assert (totals["calls"], totals["broken"], totals["tokens_in"], totals["tokens_out"]) == (3, 2, 100, 20)
    assert (totals["cost"], totals["held"]) == (0.2, 0.3)


def test_the_budget_waits_for_open_calls_and_then_says_no(ledger):
    grant, first = ask(ledger, "a", 0.6, 1.0)
    assert grant is Grant.YES
    assert ask(ledger, "b", 0.6, 1.0) == (Grant.WAIT, 0)
    ledger.finish(first, Ended("ok", 1.0, (1, 1), 0.1))
    grant, second = ask(ledger, "b", 0.6, 1.0)
    assert grant is Grant.YES
    ledger.finish(second, Ended("timeout", 1.0))
    assert ask(ledger, "c", 0.6, 1.0) == (Grant.NO, 0)
    assert ledger.totals()["calls"] == 2


def test_each_run_has_its_own_budget_and_all_have_the_verdicts(ledger):
    judged(ledger)
    other = Ledger(ledger.path, "other run")
    assert other.find("k").score == 8.0
    assert other.totals()["cost"] == 0.0
    assert ask(other, "b", 0.6, 1.0)[0] is Grant.YES
    assert ask(ledger, "c", 0.6, 1.0)[0] is Grant.NO
    other.close()


def test_calls_of_a_dead_process_stay_on_the_bill(ledger):
    ask(ledger, "a", 0.6, 1.0)
    ledger._db.execute("UPDATE calls SET owner = ?", (dead_owner(),))
    assert ask(ledger, "b", 0.6, 1.0) == (Grant.NO, 0)


def test_a_call_under_way_keeps_others_out_for_its_lease(ledger):
    now = [1000.0]
    ledger._clock = lambda: now[0]
    mine, elsewhere = ledger._owner, "elsewhere:1:1"
    _, call = ask(ledger)
    ledger._owner = elsewhere
    assert ask(ledger) == (Grant.ASKED, mine)
    now[0] += LEASE_SECONDS - 1
    ledger._owner = mine
    ledger.renew()
    ledger._owner = elsewhere
    now[0] += 2
    assert ask(ledger) == (Grant.ASKED, mine), "it was renewed"
    now[0] += LEASE_SECONDS
    assert ask(ledger)[0] is Grant.YES, "it ran out: nobody waits an hour for a host that is gone"
    ledger._owner = mine
    ledger.finish(call, Ended("ok", 1.0, (1, 1), 0.1, True, 7.0))
    assert ask(ledger) == (Grant.KNOWN, 0)


def test_the_claim_of_a_dead_process_counts_for_nothing(ledger):
    mine, ledger._owner = ledger._owner, dead_owner()
    assert ask(ledger)[0] is Grant.YES
    ledger._owner = mine
    assert ask(ledger)[0] is Grant.YES


def test_a_kill_between_reply_and_verdict_cannot_be(ledger):
    """They are one transaction: a reply that is on disk and holds a verdict is that verdict."""
    judged(ledger)
    other = sqlite3.connect(ledger.path)
    assert other.execute("SELECT COUNT(*) FROM calls WHERE raw != '' AND score IS NULL").fetchone() == (0,)
    tables = {row[0] for row in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    other.close()
    assert tables == {"calls", "meta"}


def test_the_secret_of_the_codes_is_the_files_own_and_stays(ledger, tmp_path):
    again, other = Ledger(ledger.path), Ledger(tmp_path / "other.sqlite")
    assert ledger.secret() == again.secret() != other.secret()
    again.close()
    other.close()


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_damaged_file_is_set_aside_and_said_so(tmp_path, caplog, damage):
    path = tmp_path / "judge.sqlite"
    ledger = Ledger(path)
    for index in range(300):
        judged(ledger, f"k{index}")
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
    judged(ledger)
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


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JudgeError, match=r"cannot be written: .*xist"):
        Ledger(tmp_path / "file" / "judge.sqlite")


def test_an_empty_file_is_said_to_be_one(tmp_path, caplog):
    (tmp_path / "judge.sqlite").write_bytes(b"")
    Ledger(tmp_path / "judge.sqlite").close()
    assert "is empty: what it had paid for, if anything, is paid again" in caplog.text


@pytest.mark.parametrize("fault", ["full", "emptied"])
async def test_what_breaks_while_it_is_open_is_one_line(tmp_path, fault):
    books = Books(tmp_path / "judge.sqlite")
    await books.do(Ledger.secret)
    if fault == "full":
        books._ledger._db.execute("PRAGMA max_page_count = 1")
        raw = "x" * 1_000_000
    else:
        books._ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (tmp_path / "judge.sqlite").write_bytes(b"")
        raw = ""

    async def write() -> None:
        for _ in range(20):
            call = (await books.do(Ledger.begin, "k", "trial", "", "m", 0.0))[1]
            await books.do(Ledger.finish, call, Ended("ok", 1.0, (1, 1), raw=raw))
            await books.do(Ledger.sync)

    with pytest.raises(JudgeError, match=r"judge ledger .*judge.sqlite cannot be used: ") as caught:
        await write()
    assert "\n" not in str(caught.value)


def _write(path: str, name: str, count: int) -> None:
    ledger = Ledger(path)
    for index in range(count):
        _, call = ask(ledger, f"{name}{index}", 0.0, 100.0)
        ledger.finish(call, Ended("ok", 0.0, (10, 1), 0.001, True, 8.0))
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
    assert ledger.totals()["calls"] == 200
    assert ledger.totals()["cost"] == pytest.approx(0.2)
    assert all(ledger.find(f"{name}{index}") for name in "ab" for index in range(100))
    ledger.close()

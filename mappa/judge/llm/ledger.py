"""What the judge said and what it cost, in one SQLite file: on disk before anything is made of it.

One table, `calls`: every call to the endpoint with its raw reply and the score that was read in it, written in one
transaction. A verdict is the score of a request's call; a call under way is the claim on its request, for as long as
its owner renews the lease. Runs of one machine share the file: what one has paid for costs the others nothing, and each
has its own budget. All methods block (for well under a millisecond, as a rule): call them by `Books`.

What is covered: a process killed at any point, a power cut for all that was recorded before the last `sync()`, two
processes asking the same thing, a damaged file (set aside, never emptied). What is not: machines sharing a network file
system (WAL needs shared memory), a reply that arrived in the instant before the kill and was not yet written.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from mappa.errors import JudgeError

log = logging.getLogger(__name__)
Result = TypeVar("Result")

VERSION = 2
BUSY_SECONDS = 30.0
LEASE_SECONDS = 30.0
"""How long a call under way is believed in without a renewal."""
_SCHEMA = """
CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,          -- judge id + exact request; '' of a trial
    run TEXT NOT NULL,          -- whose budget it is on
    purpose TEXT NOT NULL,      -- score, correct, trial; outcome: why a recorded request has no verdict
    action TEXT NOT NULL, model TEXT NOT NULL,
    owner TEXT NOT NULL, expires REAL NOT NULL,  -- of the claim, while it is pending
    status TEXT NOT NULL,       -- pending, ok (readable or not), timeout, broken, http_429, ...
    started REAL NOT NULL, seconds REAL,
    tokens_in INTEGER, tokens_out INTEGER,  -- NULL: the endpoint never said
    cost REAL NOT NULL,         -- dollars that are known to be spent
    held REAL NOT NULL,         -- dollars that may have been spent: call under way, or its bill unknown
    score REAL,                 -- NULL: none could be read
    reason TEXT NOT NULL,
    raw TEXT NOT NULL
);
CREATE INDEX calls_key ON calls (key);
CREATE INDEX calls_pending ON calls (run) WHERE status = 'pending';
CREATE TABLE meta (name TEXT PRIMARY KEY, value);  -- what a run's closed calls have cost, and the secret of the codes
"""


class Grant(StrEnum):
    """Whether a call may be made."""

    YES = "yes"
    WAIT = "wait"
    """Only calls under way stand between the budget and this one."""
    NO = "no"
    """The budget is spent."""
    ASKED = "asked"
    """Another process is asking the same."""
    KNOWN = "known"
    """Another process has asked the same meanwhile."""


@dataclass(frozen=True)
class Outcome:
    """What was had for one request."""

    score: float | None
    reason: str = ""
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a call ended."""

    status: str
    seconds: float
    tokens: tuple[int, int] | None = None
    """None: its bill is unknown, and what is held for it stays held, unless it was surely not `billed`."""
    cost: float = 0.0
    billed: bool = True
    score: float | None = None
    reason: str = ""
    raw: str = ""


class Ledger:
    """One open ledger. Used by one thread at a time."""

    def __init__(self, path: str | Path, run: str = "", clock: Callable[[], float] = time.time) -> None:
        self.path, self.set_aside = Path(path), None
        self._run, self._clock, self._owner = run, clock, this_process()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_name(self.path.name + ".lock")):
                self._db = self._open()
                self._size = self.path.stat().st_size
        except OSError as error:
            raise JudgeError(f"judge ledger {self.path} cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        """Force everything recorded so far through to the disk; commits alone survive a kill, not a power cut."""
        self._check_size()
        self._db.execute("PRAGMA wal_checkpoint(FULL)")
        self._size = self.path.stat().st_size

    def close(self) -> None:
        try:
            self.sync()
        finally:
            self._db.close()

    def secret(self) -> bytes:
        """Known to nobody whose text the judge is shown; the same for all requests of this file."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", (secrets.token_bytes(16),))
        return self._db.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()[0]

    def find(self, key: str, final: bool = False) -> Outcome | None:
        """The verdict on a request; `final`: also that it had none, where that was recorded."""
        row = self._db.execute(
            "SELECT score, reason FROM calls WHERE key = ? AND (score IS NOT NULL OR (? AND purpose = 'outcome'))"
            " ORDER BY id LIMIT 1",
            (key, final),
        ).fetchone()
        return Outcome(*row) if row else None

    def begin(
        self, key: str, purpose: str, action: str, model: str, hold: float, budget: float | None = None
    ) -> tuple[Grant, int | str]:
        """Enter a call that is about to be made and may cost `hold` dollars, if nobody asks the same and it fits.

        Returns:
            (grant, the call's number; of `ASKED` who asks).
        """
        with self._transaction():
            now = self._clock()
            if key and self.find(key):
                return Grant.KNOWN, 0
            others = self._db.execute(
                "SELECT owner, expires FROM calls WHERE key = ? AND key != '' AND status = 'pending' AND owner != ?",
                (key, self._owner),
            )
            if asking := [owner for owner, expires in others.fetchall() if expires > now and alive(owner)]:
                return Grant.ASKED, asking[0]
            if budget is not None:
                spent, open_ = self._money(now)
                if spent + open_ + hold > budget:
                    return (Grant.WAIT if spent + hold <= budget else Grant.NO), 0
            cursor = self._db.execute(
                "INSERT INTO calls (key, run, purpose, action, model, owner, expires, status, started, cost, held,"
                " reason, raw) VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?, 0, ?, '', '')",
                (key, self._run, purpose, action, model, self._owner, now + LEASE_SECONDS, now, hold),
            )
        return Grant.YES, cursor.lastrowid

    def renew(self) -> None:
        """Go on claiming what this process is asking."""
        with self._transaction():
            lease = (self._clock() + LEASE_SECONDS, self._owner)
            self._db.execute("UPDATE calls SET expires = ? WHERE status = 'pending' AND owner = ?", lease)

    def finish(self, call: int, end: Ended) -> None:
        """Close a call: its bill, its reply and the verdict in it, at once."""
        used = end.tokens or (None, None)
        said = (end.status, end.seconds, *used, end.cost, end.score, end.reason, end.raw)
        with self._transaction():
            self._db.execute(
                "UPDATE calls SET status = ?, seconds = ?, tokens_in = ?, tokens_out = ?, cost = ?, score = ?,"
                " reason = ?, raw = ?, held = CASE WHEN ? THEN held ELSE 0 END WHERE id = ?",
                (*said, end.billed and end.tokens is None, call),
            )
            self._db.execute(
                "INSERT INTO meta SELECT 'spent:' || run, cost + held FROM calls WHERE id = ?"
                " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (call,),
            )

    def conclude(self, key: str, action: str, model: str, reason: str) -> None:
        """Record that a request has no verdict, for good."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO calls (key, run, purpose, action, model, owner, expires, status, started, cost, held,"
                " reason, raw) VALUES (?, ?, 'outcome', ?, ?, ?, 0, 'none', ?, 0, 0, ?, '')",
                (key, self._run, action, model, self._owner, self._clock(), reason),
            )

    def totals(self) -> dict[str, float]:
        """Sums over all calls of this run, of all its processes, before and after a resume; trials and failures too.

        `held`: dollars that calls without a bill (under way, timed out, cut off) may have cost on top of `cost`.
        """
        row = self._db.execute(
            "SELECT COUNT(*), COALESCE(SUM(purpose = 'trial'), 0), COALESCE(SUM(status NOT IN ('ok', 'pending')), 0),"
            " COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0), COALESCE(SUM(cost), 0.0),"
            " COALESCE(SUM(held), 0.0) FROM calls WHERE run = ? AND purpose != 'outcome'",
            (self._run,),
        ).fetchone()
        return dict(zip(("calls", "trials", "broken", "tokens_in", "tokens_out", "cost", "held"), row, strict=True))

    def mean_tokens(self, model: str) -> tuple[float, float] | None:
        """Mean tokens in and out of this model's last thousand scoring calls, for a forecast."""
        row = self._db.execute(
            "SELECT AVG(tokens_in), AVG(tokens_out) FROM (SELECT tokens_in, tokens_out FROM calls WHERE model = ?"
            " AND purpose = 'score' AND tokens_in IS NOT NULL ORDER BY id DESC LIMIT 1000)",
            (model,),
        ).fetchone()
        return row if row[0] is not None else None

    def _money(self, now: float) -> tuple[float, float]:
        """Dollars of this run that are spent for certain or perhaps, and that calls under way hold."""
        closed = self._db.execute("SELECT value FROM meta WHERE name = ?", (f"spent:{self._run}",)).fetchone()
        open_, spent = 0.0, closed[0] if closed else 0.0
        pending = "SELECT owner, expires, held FROM calls WHERE status = 'pending' AND run = ?"
        for owner, expires, held in self._db.execute(pending, (self._run,)).fetchall():
            if owner == self._owner or (expires > now and alive(owner)):
                open_ += held
            else:
                spent += held
        return spent, open_

    def _open(self) -> sqlite3.Connection:
        if self.path.is_file() and not self.path.stat().st_size:
            log.warning("judge ledger %s is empty: what it had paid for, if anything, is paid again", self.path)
        try:
            return self._connect()
        except sqlite3.OperationalError as error:
            raise JudgeError(f"judge ledger {self.path} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            self.set_aside = self._move_away()
            log.warning(
                "judge ledger %s is damaged (%s): set aside as %s; a new one is begun, and what the old one had paid"
                " for no longer counts towards the budget",
                self.path,
                error,
                self.set_aside,
            )
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            new = version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone()
            if version != VERSION and not new:
                raise JudgeError(
                    f"{self.path} is no judge ledger of version {VERSION}: set judge.ledger to another file"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            if new:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        except (sqlite3.Error, JudgeError):
            db.close()
            raise
        return db

    def _move_away(self) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        away = self.path.with_name(f"{self.path.name}.damaged-{stamp}-{os.getpid()}")
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{self.path}{suffix}")
            if part.exists():
                part.rename(f"{away}{suffix}")
        return away

    def _check_size(self) -> None:
        """A file that is cut while it is open would be filled up again, without its beginning."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self._size:
            raise sqlite3.DatabaseError("the file was truncated or removed")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check_size()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


class Books:
    """The ledger behind a thread of its own, opened at the first use, so that a slow disk never holds up the loop.

    Work that was handed in is done even if who waits for it is cancelled.
    """

    def __init__(self, path: str | Path, run: str = "") -> None:
        self.path, self._run = Path(path), run
        self._ledger: Ledger | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def do(self, method: Callable[..., Result], *args: Any) -> Result:
        """Result of `method(ledger, ...)`, an unbound method of `Ledger`.

        Raises:
            JudgeError: the ledger cannot be opened, read or written.
        """
        try:
            return await asyncio.wrap_future(self.post(method, *args))
        except sqlite3.Error as error:
            raise JudgeError(f"judge ledger {self.path} cannot be used: {error}") from error

    def post(self, method: Callable[..., Result], *args: Any) -> Future[Result]:
        """Hand work in without waiting for it."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "judge-ledger")
        return self._thread.submit(self._work, method, args)

    async def close(self) -> None:
        """Finish all that was handed in, force it to the disk and close the file."""
        if self._thread is not None:
            thread, ledger = self._thread, self._ledger
            try:
                if ledger is not None:
                    await self.do(Ledger.close)
            finally:
                thread.shutdown()
                self._ledger = self._thread = None

    def _work(self, method: Callable[..., Result], args: tuple) -> Result:
        if self._ledger is None:
            self._ledger = Ledger(self.path, self._run)
        return method(self._ledger, *args)


# ---------------------------------------------------------------------- processes of one machine
def this_process() -> str:
    """Name of this process, `host:pid:started`: process ids alone are used again, most of all in containers."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def alive(process: str) -> bool:
    """Whether the process of that name may still be running; one on another host is taken to be."""
    host, pid, started = process.rsplit(":", 2)
    return host != socket.gethostname() or _started(int(pid)) == started


def _started(pid: int) -> str:
    """When process `pid` began, in clock ticks since boot; empty if it is gone (or there is no /proc)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time through; `path` is an empty file for nothing else."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

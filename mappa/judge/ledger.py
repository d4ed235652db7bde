"""What the judge said and what it cost, in one SQLite file: on disk before anything is made of it.

Three tables. `verdicts` holds the outcome of each exact request, `calls` every call to the endpoint (with its raw
reply, readable or not), `claims` the requests that some process is asking right now. Processes on one machine may
share the file (WAL); its money is then one budget. All methods block (for well under a millisecond, as a rule): call
them in a thread.

What is covered: a process killed at any point (what was recorded is there), a power cut for all that was recorded
before the last `sync()`, two processes asking the same thing, a damaged file (set aside, never emptied).
What is not: machines sharing a network file system (WAL needs shared memory), a reply that arrived in the instant
before the kill and was not yet written.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mappa.errors import JudgeError
from mappa.judge.processes import alive, locked, this_process

log = logging.getLogger(__name__)

VERSION = 1
BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE verdicts (
    key TEXT PRIMARY KEY,       -- judge id + exact request
    judge TEXT NOT NULL, prompt_hash TEXT NOT NULL, model TEXT NOT NULL, action TEXT NOT NULL,
    score REAL,                 -- NULL: no verdict
    reason TEXT NOT NULL,
    raw TEXT NOT NULL,          -- the reply that decided
    calls INTEGER NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
    cost REAL NOT NULL, seconds REAL NOT NULL, created REAL NOT NULL
);
CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL, purpose TEXT NOT NULL, owner TEXT NOT NULL, model TEXT NOT NULL,
    status TEXT NOT NULL,       -- pending, ok (readable or not), timeout, broken, http_429, ...
    started REAL NOT NULL, seconds REAL,
    tokens_in INTEGER, tokens_out INTEGER,  -- NULL: the endpoint never said
    cost REAL NOT NULL,         -- dollars that are known to be spent
    held REAL NOT NULL,         -- dollars that may have been spent: call under way, or its bill unknown
    raw TEXT
);
CREATE INDEX calls_pending ON calls (owner, held) WHERE status = 'pending';
CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL);
CREATE TABLE money (closed REAL NOT NULL);  -- cost + held of all calls that are not pending
INSERT INTO money VALUES (0.0);
"""


class Grant(StrEnum):
    """Whether a call may be paid."""

    YES = "yes"
    WAIT = "wait"
    """Only calls under way stand between the budget and this one."""
    NO = "no"


@dataclass(frozen=True)
class Entry:
    """The outcome of one request."""

    key: str
    judge: str
    prompt_hash: str
    model: str
    action: str
    score: float | None
    reason: str
    raw: str = ""
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    created: float = 0.0


@dataclass(frozen=True)
class Totals:
    """Sums over the whole file: all processes, all runs that wrote to it."""

    calls: int
    tokens_in: int
    tokens_out: int
    cost: float
    held: float
    """Most that calls without a bill (under way, timed out, cut off) may have cost on top."""


class Ledger:
    """One open ledger. Used by one thread at a time."""

    def __init__(self, path: str | Path, clock=time.time) -> None:
        self.path = Path(path)
        self.set_aside: Path | None = None
        """Where a damaged file was moved to."""
        self._clock = clock
        self._owner = this_process()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_name(self.path.name + ".lock")):
            self._db = self._open()

    def sync(self) -> None:
        """Force everything recorded so far through to the disk; commits alone survive a kill, not a power cut."""
        self._db.execute("PRAGMA wal_checkpoint(FULL)")

    def close(self) -> None:
        self.sync()
        self._db.close()

    def find(self, key: str) -> Entry | None:
        """The recorded outcome of a request, verdict or none."""
        row = self._db.execute(f"SELECT {', '.join(Entry.__annotations__)} FROM verdicts WHERE key = ?", (key,))
        found = row.fetchone()
        return Entry(*found) if found else None

    def claim(self, key: str, seconds: float) -> bool:
        """Take the right to ask `key` for `seconds`; False while a living process has it."""
        with self._transaction():
            row = self._db.execute("SELECT owner, expires FROM claims WHERE key = ?", (key,)).fetchone()
            if row and row[0] != self._owner and row[1] > self._clock() and alive(row[0]):
                return False
            self._db.execute("REPLACE INTO claims VALUES (?, ?, ?)", (key, self._owner, self._clock() + seconds))
        return True

    def release(self, key: str) -> None:
        """Give up a claim without an outcome."""
        with self._transaction():
            self._db.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._owner))

    def begin(self, key: str, purpose: str, model: str, hold: float, budget: float | None) -> tuple[Grant, int]:
        """Enter a call that is about to be made and may cost `hold` dollars, if that fits into `budget`."""
        with self._transaction():
            if budget is not None:
                spent, open_ = self._money()
                if spent + open_ + hold > budget:
                    return (Grant.WAIT if spent + hold <= budget else Grant.NO), 0
            cursor = self._db.execute(
                "INSERT INTO calls (key, purpose, owner, model, status, started, cost, held)"
                " VALUES (?, ?, ?, ?, 'pending', ?, 0, ?)",
                (key, purpose, self._owner, model, self._clock(), hold),
            )
        return Grant.YES, int(cursor.lastrowid or 0)

    def finish(
        self,
        call: int,
        status: str,
        seconds: float,
        tokens: tuple[int, int] | None = None,
        cost: float = 0.0,
        raw: str = "",
        billed: bool = True,
    ) -> None:
        """Close a call. Without `tokens` its bill is unknown and its hold stays, unless it was surely not `billed`."""
        tokens_in, tokens_out = tokens or (None, None)
        with self._transaction():
            self._db.execute(
                "UPDATE calls SET status = ?, seconds = ?, tokens_in = ?, tokens_out = ?, cost = ?, raw = ?,"
                " held = CASE WHEN ? THEN held ELSE 0 END WHERE id = ?",
                (status, seconds, tokens_in, tokens_out, cost, raw, billed and tokens is None, call),
            )
            self._db.execute("UPDATE money SET closed = closed + (SELECT cost + held FROM calls WHERE id = ?)", (call,))

    def record(self, entry: Entry) -> None:
        """Write the outcome of a request and end its claim."""
        values = [getattr(entry, name) for name in Entry.__annotations__]
        values[-1] = self._clock()
        with self._transaction():
            self._db.execute(f"REPLACE INTO verdicts VALUES ({', '.join('?' * len(values))})", values)
            self._db.execute("DELETE FROM claims WHERE key = ?", (entry.key,))

    def totals(self) -> Totals:
        row = self._db.execute(
            "SELECT COUNT(*), COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0), COALESCE(SUM(cost), 0.0),"
            " COALESCE(SUM(held), 0.0) FROM calls"
        ).fetchone()
        return Totals(*row)

    def mean_tokens(self) -> tuple[float, float] | None:
        """Mean tokens in and out of the scoring calls so far, for a forecast."""
        row = self._db.execute(
            "SELECT AVG(tokens_in), AVG(tokens_out) FROM calls WHERE purpose = 'score' AND tokens_in IS NOT NULL"
        ).fetchone()
        return (row[0], row[1]) if row[0] is not None else None

    def _money(self) -> tuple[float, float]:
        """Dollars spent for certain or perhaps, and dollars held by calls that are under way."""
        open_, spent = 0.0, self._db.execute("SELECT closed FROM money").fetchone()[0]
        pending = "SELECT owner, SUM(held) FROM calls WHERE status = 'pending' GROUP BY owner"
        for owner, held in self._db.execute(pending).fetchall():
            if alive(owner):
                open_ += held
            else:
                spent += held
        return spent, open_

    def _open(self) -> sqlite3.Connection:
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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

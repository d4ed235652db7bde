"""The README claims what the attempts show, and nothing else."""

from __future__ import annotations

from pathlib import Path

from sandbox.proof.attacks import FAMILIES
from sandbox.proof.checks import CHECKS, EXISTENCE
from sandbox.proof.command_line import MARKS
from sandbox.proof.table import LEVELS, TABLE, render

README = Path(__file__).parents[2] / "sandbox" / "README.md"


def test_the_readme_has_the_table_of_the_self_check():
    text = README.read_text(encoding="utf-8")
    assert text.partition(MARKS[0])[2].partition(MARKS[1])[0] == render()


def test_every_attempt_shows_a_claim():
    shown = {attempt.name for row in TABLE for attempt in row.shown_by}
    known = {check.name for check in (*CHECKS, EXISTENCE)} | {
        attack.name for family in FAMILIES.values() for attack in family
    }
    assert shown == known


def test_where_nothing_is_tried_nothing_is_claimed():
    assert [row.title for row in TABLE for level in LEVELS if not row.shown_by and row.claims(level)] == []
    assert [
        row.title for row in TABLE for level in LEVELS if not row.claims(level) and "**" not in row.cell(level)
    ] == []

"""How good a judge is, before a run is paid for: `python -m mappa.audit judge=NAME [run=FOLDER] [actions=N] [budget=D]`

Words:
    judge=NAME     the judge, as for mappa.train, with its settings (judge.model=...)
    judges=[A,B]   two judges: each is audited, and how far they agree
    run=FOLDER     on the stored episodes of a run, in which actions are put in each other's place, or do nothing;
                   without it on planted faults of team=mathchat (arithmetic) or team=data_science (tables, in kernels)
    actions=N      about so many different actions are judged (default 60)
    budget=D       dollars at most, for a judge that is paid (default 2)
    anything else  a configuration override, as for mappa.train

Prints a line a check, PASS, WARN or FAIL, and writes them to outputs/audit/; its exit status is 1 if one of them is
FAIL.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mappa.command import check_words, help_text, run_guarded, split, wants_help
from mappa.config import check, compose_with_origin, make
from mappa.errors import ConfigError
from mappa.judge.base import Judge
from mappa.play.episodes import read_episodes, stored_files
from mappa.play.rollout import learned_actions
from mappa.report import audit as measure
from mappa.report.audit import Line, Mark, Sight, file_of
from mappa.report.planted import Case
from mappa.types import BASE, Episode

_WORDS = {"judge": None, "judges": None, "run": None, "actions": "60", "budget": "2"}
_LEAST = 6
"""Actions that a change which should not matter is tried on."""


def audit(argv: Sequence[str]) -> dict[str, list[Line]]:
    """Judge id -> its lines; written to outputs/audit/ beside.

    Raises:
        ConfigError: what was asked for cannot be.
        JudgeError: the judge cannot be used.
    """
    words, overrides, folders = split(argv, _WORDS)
    names, actions, budget = _checked(words)
    configs = [configuration(name, words["run"], overrides, folders) for name in names]
    for cfg, origin in configs:
        check(cfg, origin)
        if not hasattr(make(cfg.judge), "score"):
            raise ConfigError("judge=none scores nothing; take another")
    cfg = configs[0][0]
    each = budget / len(names)  # most of it for the judge, a fifth for itself again, a fifth for other prompts
    judges = [make(on_budget(c.judge, 0.6 * each, c.paths.outputs)) for c, _ in configs]
    again = [make(on_budget(c.judge, 0.2 * each, c.paths.outputs, anew=True)) for c, _ in configs]
    shuffled = [_reordered(c, 0.2 * each) for c, _ in configs]
    episodes = stored_episodes(words["run"], actions) if words["run"] else []
    return asyncio.run(_audit(cfg, judges, again, shuffled, episodes, actions))


def _checked(words: dict[str, str | None]) -> tuple[list[str], int, float]:
    names = [words["judge"]] if words["judge"] else re.findall(r"[\w./-]+", words["judges"] or "")
    if not names or (words["judges"] and (words["judge"] or len(names) != 2)):
        raise ConfigError("say which judge: python -m mappa.audit judge=NAME, or two: judges=[A,B]")
    if not words["actions"].isdigit() or int(words["actions"]) < 8:
        raise ConfigError(f"actions={words['actions']} must be a whole number of at least 8")
    return names, int(words["actions"]), dollars(words["budget"])


def dollars(word: str) -> float:
    """Of `budget=WORD`.

    Raises:
        ConfigError: it is no amount.
    """
    if not re.fullmatch(r"\d*\.?\d+", word) or not float(word):
        raise ConfigError(f"budget={word} must be a number of dollars above 0")
    return float(word)


def configuration(name: str, run: str | None, overrides: Sequence[str], folders: Sequence[Path]) -> tuple[Any, Any]:
    """A run's own composition with another judge, or the smallest in which this judge can stand."""
    check_words([f"judge={name}", *overrides])
    if run:
        path = Path(run) / ".hydra" / "overrides.yaml"
        if not path.is_file():
            raise ConfigError(f"{run} is not a run folder (no .hydra/overrides.yaml in it); give outputs/NAME/TIME")
        base = [w for w in OmegaConf.load(path) if not re.match(r"\W*(hydra|judge|resume)\b", w)]
    elif any(word.lstrip("+").startswith("experiment=") for word in overrides):
        base = []
    else:
        tables = name == "rubric_tabular" or "team=data_science" in overrides
        base = ["task=tabular", "team=data_science"] if tables else ["task=arithmetic", "team=mathchat"]
    given = {word.partition("=")[0].lstrip("+") for word in overrides}
    base = [word for word in base if word.partition("=")[0] not in given]
    words = [*base, f"judge={name}", *overrides, *([] if "paths.run" in given else ["paths.run=audit"])]
    return compose_with_origin(words, folders=folders)


def on_budget(judge: DictConfig, budget: float, outputs: str, anew: bool = False) -> DictConfig:
    """A paid judge with this budget, on a bill of its own; `anew`: it forgets what it said."""
    judge = OmegaConf.create(OmegaConf.to_container(judge, resolve=True))
    if "judge" in judge:
        judge.judge = on_budget(judge.judge, budget, outputs, anew)
    if "money" in judge:
        stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
        judge.run = f"audit {stamp}"
        prices = make(judge.money).prices(judge.model, judge.base_url)
        judge.money.budget = None if prices is None or not prices.cost(1, 1) else budget
        if anew:
            judge.ledger = f"{outputs}/audit/again-{stamp}.sqlite"
    return judge


def _reordered(cfg: DictConfig, budget: float) -> Judge | None:
    """A model judge that is shown the sections of the material in reverse; None of another judge."""
    if "prompt" not in cfg.judge:
        return None
    judge = on_budget(cfg.judge, budget, cfg.paths.outputs)
    sections = re.split(r"^(?=# )", judge.prompt.material, flags=re.MULTILINE)
    judge.prompt.material = "\n".join(section.strip() + "\n" for section in reversed(sections))
    return make(judge)


# ---------------------------------------------------------------------- cases
async def planted(cfg: DictConfig, actions: int) -> list[Case]:
    """The shipped cases of this team.

    Raises:
        ConfigError: there are none.
    """
    seats = list(cfg.team.get("agents", {}))
    if seats == ["solver", "executor", "verifier"]:
        from mappa.report.planted import arithmetic

        return arithmetic.cases(max(2, round(actions / 8)))
    if seats != ["engineer", "modeler", "analyst"]:
        raise ConfigError("there are planted cases for team=mathchat and team=data_science; for others give run=FOLDER")
    from mappa.policy.chat import Chat
    from mappa.report.planted import tables
    from mappa.task.tabular import Tabular
    from mappa.tiny.imitation import make_tokenizer
    from mappa.tiny.tabular import RECIPE

    short = {"execution_seconds": 10.0, "interrupt_seconds": 2.0}
    pool = make(OmegaConf.merge(cfg.sandbox, {"warm": 1, "limits": short}))
    wine = Tabular(f"{cfg.paths.outputs}/audit/tables", train_tables=["wine"], splits=1)
    chat = Chat(make_tokenizer(iter(()), RECIPE))
    await pool.start()
    try:
        stage = tables.Stage(make(cfg.team, _convert_="all"), wine, pool, chat)
        return await tables.cases(stage, max(2, round(actions / 6)))
    finally:
        await pool.close()


def stored_episodes(run: str, actions: int) -> list[Episode]:
    """The latest episodes of a run that have actions, about twice as many as are needed."""
    found: list[Episode] = []
    for path in reversed(stored_files(run)):
        found += [episode for episode in read_episodes(path) if episode.own and not episode.error]
        if sum(len(episode.actions) for episode in found) >= 2 * actions:
            break
    return found


def exchanged(episodes: Sequence[Episode], actions: int, seed: int = 0) -> list[Case]:
    """Stored episodes with one action exchanged for the same agent's on another problem, or for one that does nothing.

    A judge that looks at files alone (rubric_tabular) cannot see the former: files have the same names there.

    Raises:
        ConfigError: they are all of one problem, or none went well.
    """
    rng = random.Random(seed)
    best = sorted(episodes, key=lambda e: -(e.grade.score if e.grade else 0.0))
    wanted, cases = max(2, round(actions / (2 * len(best[0].actions)))), []
    for good in best:
        place = rng.choice([i for i, a in enumerate(good.actions) if a.agent != BASE] or [0])
        mine = good.actions[place]
        others = [
            action
            for episode in best
            for action in episode.actions
            if episode.task.id != good.task.id
            and (action.seat, action.turn) == (mine.seat, mine.turn)
            and action.text != mine.text
        ]
        if others and len(cases) < wanted:
            said = rng.choice(others)
            other = replace(mine, text=said.text, tool=said.tool, files=said.files)
            idle = replace(mine, text="I am done.", tool=None, files=(), probe=None)
            does, instead = ("does nothing", idle) if len(cases) % 2 else ("answers another problem", other)
            faulty = (*good.actions[:place], instead, *good.actions[place + 1 :])
            faulty = replace(good, id=f"{good.id}-exchanged", actions=faulty)
            cases.append(Case(f"{mine.seat} {does}", good, faulty, place, place))
    if not cases:
        raise ConfigError("the stored episodes are all of one problem: there is nothing to exchange")
    return cases


# ---------------------------------------------------------------------- the audit
async def _audit(
    cfg: DictConfig,
    judges: Sequence[Judge],
    again: Sequence[Judge],
    shuffled: Sequence[Judge | None],
    episodes: Sequence[Episode],
    actions: int,
) -> dict[str, list[Line]]:
    cases = exchanged(episodes, actions) if episodes else await planted(cfg, actions)
    grades = [episode.grade.score for episode in episodes if episode.grade is not None]
    success = sum(grades) / len(grades) if grades else None
    everyone = [*judges, *again, *(judge for judge in shuffled if judge is not None)]
    sights = measure.sights_of(cases)
    results, firsts = {}, []
    try:
        for judge in judges:
            await judge.start()
        for judge, second, other in zip(judges, again, shuffled, strict=True):
            verdicts = await measure.ask(judge, sights)
            firsts.append(verdicts)
            lines = await checks(judge, second, other, cases, sights, verdicts, success)
            lines.append(measure.price(await judge.totals(), verdicts, planned_actions(cfg)))
            results[judge.id] = lines
        if len(judges) == 2:
            line = measure.agreement((judges[0].id, judges[1].id), *firsts)
            results = {name: [*lines, line] for name, lines in results.items()}
    finally:
        for judge in everyone:
            await judge.close()
    for judge in judges:
        _write(Path(cfg.paths.outputs) / "audit", judge.id, results[judge.id])
    return results


async def checks(
    judge: Judge,
    again: Judge,
    shuffled: Judge | None,
    cases: Sequence[Case],
    sights: Sequence[Sight],
    verdicts: Sequence[Any],
    success: float | None,
) -> list[Line]:
    """All lines but the price."""
    scores = measure.scores_of(sights, verdicts)
    every = [verdict.score for verdict in verdicts if verdict.score is not None]
    lines = [*measure.faults(cases, scores), measure.rates(cases, scores), measure.credit(cases, scores, success)]
    some = list(range(0, len(sights), max(1, len(sights) // 20)))
    second = await measure.ask(again, [sights[i] for i in some])
    lines.append(measure.retest([verdicts[i] for i in some], second, every))
    tried = [s for case in cases for s in (Sight(case.faulty, case.guilty), Sight(case.good, case.unharmed))]
    tried = tried[: max(_LEAST, len(sights) // 6)]
    before = await measure.ask(judge, tried)
    for name, change in measure.SHIFTS.items():
        after = await measure.ask(judge, [sight.changed(change) for sight in tried])
        lines.append(measure.shift(name, before, after))
    after = await measure.ask(judge, [measure.renamed(sight) for sight in tried])
    lines.append(measure.shift("agent names", before, after))
    if shuffled is not None:
        lines.append(measure.shift("section order", before, await measure.ask(shuffled, tried)))
    lines += [measure.saturation(every), measure.unreadable(verdicts)]
    gap = measure.strata(sights, verdicts)
    return lines if gap is None else [*lines, gap]


def planned_actions(cfg: DictConfig) -> int | None:
    """Of the whole run that the configuration describes, at most."""
    actions = learned_actions(make(cfg.team, _convert_="all"))
    return cfg.data.tasks_per_epoch * cfg.data.samples_per_task * cfg.trainer.max_epochs * actions


def _write(folder: Path, judge: str, lines: Sequence[Line]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "judge": judge,
        "at": datetime.now().isoformat(timespec="seconds"),
        "lines": [{"name": x.name, "mark": str(x.mark), "text": x.text, "numbers": dict(x.numbers)} for x in lines],
    }
    file_of(folder, judge).write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    results = audit(sys.argv[1:])
    for judge, lines in results.items():
        print(judge)  # noqa: T201 command-line output
        for line in lines:
            print(f"  {line.mark}  {line.text}")  # noqa: T201 command-line output
    if any(line.mark is Mark.FAIL for lines in results.values() for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    run_guarded(main)

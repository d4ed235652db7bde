"""How far a judge can be trusted, from one rollout's verdicts: saturation, bias between strata, agreement with grades.

Pure. The paper's judge favoured regression tasks by up to 1.8 of 10 points, and the policy learnt to please it.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from mappa.types import Episode, Verdict

MIN_ACTIONS = 8
"""Fewest judged actions from which a stratum's mean or a saturation is worth a warning."""
MAX_SELF_SCORED_GAP = 1.0
MIN_CORRELATION = -0.2
MIN_RISE, MIN_FALL = 0.3, 0.03
"""Points of ten, and of the grade, between the halves of the last epochs..."""
SURE = 2.0
"""...and so many standard errors: of 90 runs of the laboratory, in which nothing parted, 2 were warned of, not 19."""
_SCORE = re.compile(
    r"process[ _-]?score|\b(?:score|rating|grade)\b\W{0,3}(?:is\W)?\d|\b(?:10|[0-9])\s?(?:/|out of)\s?10\b",
    re.IGNORECASE,
)


def judge_metrics(episodes: Sequence[Episode], verdicts: Mapping[str, Verdict]) -> dict[str, float]:
    """Numbers under `judge/`; scores on 0-10, shares on 0-1, seconds, dollars. What nothing supports is left out."""
    actions = [action for episode in episodes for action in episode.own]
    known = [verdicts[action.id] for action in actions if action.id in verdicts]
    paid = [verdict for verdict in known if not verdict.cached]
    scores = scores_by_agent(episodes, verdicts)
    every = [score for values in scores.values() for score in values]
    numbers = {"judge/actions": float(len(actions)), "judge/cost": sum(verdict.cost for verdict in paid)}
    if actions:
        numbers["judge/unjudged"] = 1.0 - len(every) / len(actions)
        numbers["judge/cached"] = sum(verdict.cached for verdict in known) / len(actions)
    if latencies := [verdict.seconds for verdict in paid if verdict.seconds > 0]:
        numbers["judge/seconds"] = statistics.fmean(latencies)
        numbers["judge/seconds_max"] = max(latencies)
    if every:
        numbers["judge/score"] = statistics.fmean(every)
    for agent, values in scores.items():
        numbers[f"judge/{agent}/at_0"] = values.count(0.0) / len(values)
        numbers[f"judge/{agent}/at_10"] = values.count(10.0) / len(values)
    strata = _scores_by_kind(episodes, verdicts)
    for kind, values in strata.items():
        numbers[f"judge/stratum/{kind}"] = statistics.fmean(values)
    said, unsaid = _by_own_score(episodes, verdicts)
    if said:
        numbers["judge/self_scored"] = len(said) / len(every)
    if said and unsaid:
        numbers["judge/self_scored_gap"] = statistics.fmean(said) - statistics.fmean(unsaid)
    if len(strata) > 1:
        means = [statistics.fmean(values) for values in strata.values()]
        numbers["judge/stratum_gap"] = max(means) - min(means)
    pairs = _with_grades(episodes, verdicts)
    if len(pairs) > 2 and all(len(set(column)) > 1 for column in zip(*pairs, strict=True)):
        numbers["judge/grade_correlation"] = statistics.correlation(*zip(*pairs, strict=True))
    return numbers


def scores_by_agent(episodes: Sequence[Episode], verdicts: Mapping[str, Verdict]) -> dict[str, list[float]]:
    """Scores of all judged actions."""
    scores: dict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        for action in episode.own:
            if (score := _score(verdicts, action.id)) is not None:
                scores[action.agent].append(score)
    return dict(scores)


def score_counts(scores: Sequence[float]) -> list[int]:
    """How many scores round to 0, 1, ..., 10."""
    counts = Counter(int(score + 0.5) for score in scores)
    return [counts[score] for score in range(11)]


def unjudged_line(episodes: Sequence[Episode], verdicts: Mapping[str, Verdict]) -> str:
    """Which share of the actions has no verdict, and one of the reasons; empty if all have one."""
    ids = [action.id for episode in episodes for action in episode.own]
    missing = [action_id for action_id in ids if _score(verdicts, action_id) is None]
    if not missing:
        return ""
    reason = next((verdicts[i].reason for i in missing if i in verdicts and verdicts[i].reason), "")
    return f"{len(missing) / len(ids):.0%} of this epoch's actions are unjudged{reason and ': ' + reason[:200]}"


def warnings(
    episodes: Sequence[Episode], verdicts: Mapping[str, Verdict], max_saturation: float, max_gap: float
) -> dict[str, str]:
    """What passed its bound -> a line that says so, where there are enough actions to say so."""
    lines = {}
    if unjudged := unjudged_line(episodes, verdicts):
        lines["unjudged"] = unjudged
    for agent, values in scores_by_agent(episodes, verdicts).items():
        expected = max_saturation >= 1.0 and values[0] in (0.0, 10.0)
        if len(values) >= MIN_ACTIONS and len(set(values)) == 1 and not expected:
            lines[f"{agent} equal"] = (
                f"the judge gave all {len(values)} actions of agent {agent} the same score, {values[0]:g}: such scores "
                "teach nothing"
            )
            continue
        for end in (0.0, 10.0):
            share = values.count(end) / len(values)
            if len(values) >= MIN_ACTIONS and share > max_saturation:
                lines[f"{agent} at {end:.0f}"] = (
                    f"the judge gave {share:.0%} of agent {agent}'s actions a {end:.0f}: such scores teach nothing"
                )
    strata = _scores_by_kind(episodes, verdicts)
    means = {kind: statistics.fmean(values) for kind, values in strata.items() if len(values) >= MIN_ACTIONS}
    if len(means) > 1:
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        if (gap := means[high] - means[low]) > max_gap:
            lines["strata"] = (
                f"the judge scores {high} tasks {gap:.1f} points above {low} tasks: a team may learn to please it"
            )
    numbers = judge_metrics(episodes, verdicts)
    pairs = len(_with_grades(episodes, verdicts))
    if pairs >= MIN_ACTIONS and (correlation := numbers.get("judge/grade_correlation", 0.0)) < MIN_CORRELATION:
        lines["grade"] = (
            f"the judge's scores and the grades of {pairs} episodes have a correlation of {correlation:.2f}: what it "
            "rewards does harm"
        )
    said, unsaid = _by_own_score(episodes, verdicts)
    gap = numbers.get("judge/self_scored_gap", 0.0)
    if min(len(said), len(unsaid)) >= MIN_ACTIONS and gap > MAX_SELF_SCORED_GAP:
        lines["self-scored"] = (
            f"{len(said)} actions hold something like a score of their own, and get {gap:.1f} points more than others"
        )
    return lines


def drift(history: Sequence[tuple[float, float]], epochs: int = 8) -> str:
    """A line where rewards rise while grades fall: a team that learns to please its judge. Empty where none is due.

    Args:
        history: (mean score, mean grade) of each epoch, in order.
        epochs: the last so many are looked at, half against half.
    """
    if len(history) < epochs:
        return ""
    halves = history[-epochs : -epochs // 2], history[-epochs // 2 :]
    (scores, grades), (scores_now, grades_now) = (tuple(zip(*half, strict=True)) for half in halves)
    if not (_above(scores_now, scores, MIN_RISE) and _above(grades, grades_now, MIN_FALL)):
        return ""
    score, now, grade, graded = map(statistics.fmean, (scores, scores_now, grades, grades_now))
    return (
        f"over the last {epochs} epochs the judge's mean score rose from {score:.2f} to {now:.2f} while the grade fell "
        f"from {grade:.3f} to {graded:.3f}: the team may be learning to please it (python -m mappa.audit shows by what)"
    )


def _above(high: Sequence[float], low: Sequence[float], least: float) -> bool:
    """Whether one mean is so much above the other, and by more than chance makes of it."""
    rise = statistics.fmean(high) - statistics.fmean(low)
    error = ((statistics.variance(high) + statistics.variance(low)) / len(high)) ** 0.5
    return rise >= max(least, SURE * error)


def mean_grade(episodes: Sequence[Episode]) -> float | None:
    grades = [episode.grade.score for episode in episodes if episode.grade is not None]
    return statistics.fmean(grades) if grades else None


def _by_own_score(episodes: Sequence[Episode], verdicts: Mapping[str, Verdict]) -> tuple[list[float], list[float]]:
    """Scores of the actions that hold something like a score themselves, and of the others."""
    said: tuple[list[float], list[float]] = ([], [])
    for action in (action for episode in episodes for action in episode.own):
        if (score := _score(verdicts, action.id)) is not None:
            said[_SCORE.search(action.text) is None].append(score)
    return said


def _score(verdicts: Mapping[str, Verdict], action_id: str) -> float | None:
    verdict = verdicts.get(action_id)
    return None if verdict is None else verdict.score


def _scores_by_kind(episodes: Sequence[Episode], verdicts: Mapping[str, Verdict]) -> dict[str, list[float]]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        scores = [_score(verdicts, action.id) for action in episode.actions]
        by_kind[episode.task.kind] += [score for score in scores if score is not None]
    return {kind: values for kind, values in sorted(by_kind.items()) if values}


def _with_grades(episodes: Sequence[Episode], verdicts: Mapping[str, Verdict]) -> list[tuple[float, float]]:
    """(mean score of the episode's judged actions, the task's own grade) of each graded episode."""
    pairs = []
    for episode in episodes:
        scores = [s for action in episode.actions if (s := _score(verdicts, action.id)) is not None]
        if scores and episode.grade is not None:
            pairs.append((statistics.fmean(scores), episode.grade.score))
    return pairs

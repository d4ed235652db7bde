"""Episodes -> flat dictionaries of numbers. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from mappa.ranks import added
from mappa.report.statistics import interval, majority, pass_at_k
from mappa.types import Action, Episode, Verdict


def rollout_metrics(
    episodes: Sequence[Episode], verdicts: Mapping[str, Verdict], agents: Iterable[str]
) -> dict[str, float]:
    """Numbers of one rollout, over the team and `<agent>/...`. A value that nothing supports is left out.

    Rewards are on 0-1 over judged actions; lengths in tokens; fractions over the agent's actions, `token_share` of
    all that was said.
    """
    actions = [action for episode in episodes for action in episode.own]
    numbers = {
        "rollout/episodes": float(len(episodes)),
        "rollout/failed_episodes": float(sum(episode.error is not None for episode in episodes)),
        "rollout/actions": float(len(actions)),
    }
    grades = [episode.grade.score for episode in episodes if episode.grade is not None]
    if grades:
        numbers["rollout/accuracy"] = statistics.fmean(grades)
        measures = {name: statistics.fmean(found.values()) for name, found in measures_by_task(episodes).items()}
        numbers |= {f"rollout/{name}": value for name, value in measures.items() if name != "accuracy"}
    said = sum(len(action.completion_ids) for action in actions)
    for agent in agents:
        mine = [action for action in actions if action.agent == agent]
        if mine:
            numbers |= {f"{agent}/{key}": value for key, value in _agent_metrics(mine, verdicts).items()}
            numbers[f"{agent}/token_share"] = sum(len(action.completion_ids) for action in mine) / max(1, said)
    return numbers


def _agent_metrics(actions: Sequence[Action], verdicts: Mapping[str, Verdict]) -> dict[str, float]:
    scores = [v.score for a in actions if (v := verdicts.get(a.id)) is not None and v.score is not None]
    runs = [action.tool for action in actions if action.tool is not None]
    numbers = {
        "completion_tokens": statistics.fmean(len(action.completion_ids) for action in actions),
        "prompt_tokens": statistics.fmean(len(action.prompt_ids) for action in actions),
        "truncated_fraction": statistics.fmean(action.truncated for action in actions),
        "tool_use": len(runs) / len(actions),
    }
    if verdicts:
        numbers["unjudged_fraction"] = 1.0 - len(scores) / len(actions)
    if runs:
        numbers["tool_errors"] = statistics.fmean(run.status != "ok" for run in runs)
    if scores:
        numbers["reward"] = statistics.fmean(scores) / 10.0
        numbers["reward_std"] = statistics.pstdev(scores) / 10.0
    return numbers


MANY_TRUNCATED = 0.3
"""Share of an agent's actions past which its budget is too small to learn well."""


def truncation_lines(numbers: Mapping[str, float], agents: Iterable[str]) -> list[str]:
    """One line for each agent whose actions are often cut off, from what `rollout_metrics` gave."""
    shares = {agent: numbers.get(f"{agent}/truncated_fraction", 0.0) for agent in agents}
    return [
        f"{share:.0%} of the actions of {agent} were cut off by max_tokens, and teach nothing; raise it"
        for agent, share in shares.items()
        if share > MANY_TRUNCATED
    ]


def evaluate_episodes(episodes: Sequence[Episode], vote: Callable[[str], str | None]) -> dict[str, dict[str, float]]:
    """`avg@k`, and for k > 1 `pass@2`, `pass@4`, ... up to k and `maj@k`, each with its interval over problems.

    Without a vote there is no `maj@k`. Episodes that ended in an error count as wrong. A problem's episodes are all k
    of its attempts.
    """
    by_task: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.task.id].append(episode)
    scores = [[_score(episode) for episode in attempts] for attempts in by_task.values()]
    clusters = list(clusters_by_task(episodes).values())
    k = min(map(len, scores))
    outcomes = all(score in (0.0, 1.0) for row in scores for score in row)
    means, trials = [statistics.fmean(row) for row in scores], k if outcomes else None
    result = {f"avg@{k}": interval(means, trials, clusters, within=(0.0, 1.0))}
    if k > 1:
        votes = [[None if e.answer is None else vote(e.answer) for e in attempts] for attempts in by_task.values()]
        for draws in sorted({2**i for i in range(1, k.bit_length())} | {k}):
            values = [pass_at_k(sum(s >= 1.0 for s in row), len(row), draws) for row in scores]
            result[f"pass@{draws}"] = interval(values, k // draws, clusters)
        if any(vote is not None for row in votes for vote in row):
            majorities = [majority(v, s) for v, s in zip(votes, scores, strict=True)]
            result[f"maj@{k}"] = interval(majorities, clusters=clusters, within=(0.0, 1.0))
    return result


def clusters_by_task(episodes: Sequence[Episode]) -> dict[str, str]:
    """Task id -> what it shares with other tasks; one that shares nothing is its own cluster."""
    return {episode.task.id: episode.task.cluster or episode.task.id for episode in episodes}


def scores_by_task(episodes: Sequence[Episode]) -> dict[str, float]:
    """Task id -> mean grade of its episodes on 0-1; one that ended in an error counts as wrong."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.task.id].append(_score(episode))
    return {task: statistics.fmean(scores) for task, scores in by_task.items()}


def tokens_by_task(episodes: Sequence[Episode]) -> dict[str, float]:
    """Task id -> mean completion tokens of its episodes, of all seats."""
    by_task: dict[str, list[int]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.task.id].append(sum(len(action.completion_ids) for action in episode.actions))
    return {task: statistics.fmean(counts) for task, counts in by_task.items()}


def measures_by_task(episodes: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """The task's own measures, of all kinds and as `<kind>/<measure>`, -> task id -> mean of the episodes with it."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for episode in episodes:
        task = episode.task
        for name, value in (episode.grade.metrics if episode.grade is not None else {}).items():
            values[name][task.id].append(value)
            values[f"{task.kind}/{name}"][task.id].append(value)
    return {
        name: {task: statistics.fmean(found) for task, found in by_task.items()}
        for name, by_task in sorted(values.items())
    }


def _score(episode: Episode) -> float:
    return episode.grade.score if episode.grade is not None else 0.0


def step_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Of an optimizer step: this rank's `<agent>/<key>` sums -> loss and means over all ranks' loss tokens. Collective.

    Gradient norms, `<agent>/grad_norm`, are the same on all ranks, and stay as they are.
    """
    numbers = {key: value for key, value in sums.items() if key.endswith("/grad_norm")}
    totals = added({key: value for key, value in sums.items() if key not in numbers})
    for key, total in totals.items():
        agent, _, name = key.partition("/")
        tokens = totals[f"{agent}/tokens"]
        if name == "tokens":
            numbers[f"{agent}/loss_tokens"] = tokens
        else:
            numbers[key] = total if name == "loss" else total / tokens
    return numbers

"""How different the agents of a debate are, and what voting and debating add: from held-out episodes. Pure.

After arXiv 2501.05707, section 4: consensus, likelihood and KL between agents, dissimilarity of embeddings.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from mappa.report.statistics import interval, majority
from mappa.select.consensus import chains
from mappa.task.base import TaskSet
from mappa.text import strip_reasoning
from mappa.types import Action, Episode


@dataclass(frozen=True)
class Answers:
    """The first answer of each chain of one episode, and what came of the debate."""

    actions: tuple[Action, ...]
    votes: tuple[str | None, ...]
    scores: tuple[float, ...]
    debated: float
    """The episode's grade; 0 where it ended in an error."""


def first_answers(episode: Episode, task_set: TaskSet) -> Answers | None:
    """None where no generator spoke."""
    actions = tuple(chain[0][-1] for chain in chains(episode))
    if not actions:
        return None
    texts = [strip_reasoning(action.text) for action in actions]
    return Answers(
        actions,
        tuple(task_set.vote(text) for text in texts),
        tuple(task_set.grade(episode.task, text, None).score for text in texts),
        0.0 if episode.grade is None else episode.grade.score,
    )


def agreement(answers: Sequence[Answers]) -> dict[str, float]:
    """`consensus`: share of pairs of first answers that agree; `majority_share`: of first answers that are the vote's.

    An answer that cannot be read agrees with nobody. Without pairs `consensus` is left out.
    """
    pairs = [
        statistics.fmean(a is not None and a == b for a, b in combinations(found.votes, 2))
        for found in answers
        if len(found.votes) > 1
    ]
    shares = []
    for found in answers:
        counts = Counter(vote for vote in found.votes if vote is not None)
        shares.append(max(counts.values(), default=0) / len(found.votes))
    return ({"consensus": statistics.fmean(pairs)} if pairs else {}) | {"majority_share": statistics.fmean(shares)}


def accuracies(answers: Sequence[Answers]) -> dict[str, dict[str, float]]:
    """`single`, `majority` (of first answers; ties to the first) and `debate`, each with its interval over problems."""
    outcomes = all(score in (0.0, 1.0) for found in answers for score in found.scores)
    trials = min(len(found.scores) for found in answers) if outcomes else None
    return {
        "single": interval([statistics.fmean(found.scores) for found in answers], trials),
        "majority": interval([majority(found.votes, found.scores) for found in answers]),
        "debate": interval([found.debated for found in answers]),
    }


def distances(nll: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Nats per token, from nll[i, j] = -log pi_i(y_j), the mean over tokens of answers y_j sampled by agent j.

    `entropy`: mean of nll[j, j]; `likelihood`: mean of nll[i, j], i != j; `kl`: mean of nll[i, j] - nll[j, j], which
    estimates KL(pi_j || pi_i). The last two need two agents.
    """
    agents = sorted({i for i, _ in nll})
    numbers = {"entropy": statistics.fmean(nll[j, j] for j in agents)}
    if len(agents) > 1:
        numbers["likelihood"] = statistics.fmean(nll[i, j] for i, j in permutations(agents, 2))
        numbers["kl"] = statistics.fmean(nll[i, j] - nll[j, j] for i, j in permutations(agents, 2))
    return numbers


def dissimilarity(groups: Sequence[Sequence[Sequence[float]]]) -> float | None:
    """Mean of 1 - cosine between the vectors of one problem's answers; None without a pair of answers."""
    values = [1.0 - _cosine(a, b) for group in groups for a, b in combinations(group, 2)]
    return statistics.fmean(values) if values else None


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    norms = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0

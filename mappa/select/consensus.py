"""Each agent's own answers that agree with the majority: Multiagent Finetuning (arXiv 2501.05707), without labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from mappa.epoch import Collected
from mappa.errors import ConfigError
from mappa.ranks import added
from mappa.reward.base import Rating
from mappa.select.base import Choice, Chosen, purity, vote_of
from mappa.types import BASE, Action, Episode

if TYPE_CHECKING:
    from annotated_types import Ge, Le
    from pydantic import PositiveInt

    from mappa.task.base import TaskSet

GENERATOR, CRITIC, SUMMARISER = "generator", "critic", "summariser"
"""Seats of a debate: `generator_1`, ..., `critic_1`, ..., `summariser`."""
_SEAT = re.compile(rf"({GENERATOR}|{CRITIC})_(\d+)")
"""Equal numbers are one chain: what a generator said, its critic revises."""


class Consensus:
    r"""The majority's answer y_hat is the label.

    Generator k learns its first answers that say y_hat. Critic k learns its own actions in dialogues that end in y_hat,
    with weight 2w where the chain began with another answer (D-), and 2(1 - w) where it began with y_hat (D+).

    Departures from the authors' code:
      1. D- and D+ are mixed by weights instead of by a coin for each D+ dialogue: the same expectation, no randomness.
      2. Only a critic's own actions are learned, not the (possibly wrong) first answer that it goes on from.
      3. `min_votes`: 1 is theirs; 2 leaves out problems where nobody agrees with anybody.
      4. Truncated actions are never learned.
    """

    group = 1
    needs_ratings = False

    def __init__(self, w: Annotated[float, Ge(0), Le(1)] = 0.5, min_votes: PositiveInt = 1) -> None:
        """
        Args:
            w: share of corrections (D-) in what a critic learns.
            min_votes: of the last answers, that must agree with y_hat.
        """
        self._w, self._min_votes = w, min_votes

    def check(self, seats: Mapping[str, str], task_set: TaskSet) -> None:
        if not any(_kind(seat) == GENERATOR for seat in seats):
            raise ConfigError(
                "select=consensus needs a debate (team=debate, seats generator_1, ...); this team has: "
                f"{', '.join(seats)}"
            )
        if seats.get(SUMMARISER, BASE) != BASE:
            raise ConfigError(
                f"the summariser of a debate that select=consensus learns from is the frozen base: nothing it says is "
                f"ever learned; set team.summariser.adapter={BASE}"
            )

    def choose(self, made: Collected, ratings: Mapping[str, Rating]) -> Chosen:
        labels = [(episode, self._agreed(episode, made.task_set)) for episode in made.episodes]
        kept = [(episode, label) for episode, label in labels if label is not None]
        choices = [choice for episode, label in kept for choice in self._of(episode, label, made.task_set)]
        counts = added({"kept": len(kept), "played": len(labels)}, made.gather)
        metrics = purity(choices, made) | {"select/kept_episodes": counts["kept"] / max(1, counts["played"])}
        return Chosen([(choice,) for choice in choices], metrics)

    def _agreed(self, episode: Episode, task_set: TaskSet) -> str | None:
        """y_hat, where enough chains end in it."""
        label = None if episode.answer is None else task_set.vote(episode.answer)
        if label is None:
            return None
        votes = [vote_of(chain[-1][-1], task_set) for chain in chains(episode)]
        return label if votes.count(label) >= self._min_votes else None

    def _of(self, episode: Episode, label: str, task_set: TaskSet) -> Iterator[Choice]:
        for chain in chains(episode):
            began_right = vote_of(chain[0][-1], task_set) == label
            learned: list[tuple[Action, float]] = [(action, 1.0) for action in chain[0] if began_right]
            if vote_of(chain[-1][-1], task_set) == label:
                weight = 2 * (1 - self._w) if began_right else 2 * self._w
                learned += [(a, weight) for act in chain[1:] for a in act if _kind(a.seat) == CRITIC]
            yield from (Choice(a, episode.task, weight) for a, weight in learned if weight > 0 and not a.truncated)


def _kind(seat: str) -> str | None:
    match = _SEAT.fullmatch(seat)
    return match[1] if match else None


def chains(episode: Episode) -> list[list[list[Action]]]:
    """Of each generator that spoke: its acts and its critic's, in order; an act is the turns up to the next turn 0."""
    found: dict[int, list[list[Action]]] = {}
    for action in episode.actions:
        match = _SEAT.fullmatch(action.seat)
        if match is not None:
            acts = found.setdefault(int(match[2]), [])
            if action.turn == 0:
                acts.append([])
            acts[-1].append(action)
    return [found[number] for number in sorted(found)]

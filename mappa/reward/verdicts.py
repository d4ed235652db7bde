"""What the judge said of an episode's actions, on average: its scores select what is learned."""

from __future__ import annotations

import statistics

from mappa.epoch import Collected
from mappa.reward.base import Rating, finished


class VerdictsReward:
    """Mean score / 10 of the judged actions; an episode without any has no rating, so it is never chosen."""

    def rate(self, made: Collected) -> dict[str, Rating]:
        ratings = {}
        for episode in finished(made):
            known = [made.verdicts[action.id].score for action in episode.actions if action.id in made.verdicts]
            scores = [score for score in known if score is not None]
            if scores:
                mean = statistics.fmean(scores) / 10.0
                ratings[episode.id] = Rating(mean, {"verdicts": mean})
        return ratings

import random
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from mappa.judge.base import BaseJudge, Evidence
from mappa.play.agent import Agent, handoff
from mappa.play.scene import Scene
from mappa.types import Grade, Task, Verdict


class Copying:
    """Training and held-out problems, and the only word on what is right."""

    name = "copying"

    def __init__(self, size: int = 64, seed: int = 0) -> None:
        rng = random.Random(seed)
        texts = {"{} + {}*{} + {} - {}*{}".format(*rng.choices(range(1, 31), k=6)): None for _ in range(2 * size)}
        tasks = [Task(id=text, question=f"Compute {text}.", answer=text) for text in texts]
        self._train, self._held_out = tasks[:size], tasks[size:]

    def train(self) -> list[Task]:
        return self._train

    def validation(self) -> dict[str, list[Task]]:
        return {"copying": self._held_out}

    def vote(self, answer: str) -> str | None:
        return answer.strip() or None

    def grade(self, task: Task, answer: str | None, workspace: object) -> Grade:
        return Grade(float(answer is not None and self.vote(answer) == task.answer))


class Pair:
    """Both answer on their own; the team says what they agree on: plain control flow."""

    def __init__(self, agents: Mapping[str, Mapping[str, Any]]) -> None:
        self.agents = {name: Agent(name, **settings) for name, settings in agents.items()}

    async def play(self, scene: Scene) -> str:
        actions = [await agent.act(scene, {"task": scene.task.question}) for agent in self.agents.values()]
        texts = {handoff(scene, action) for action in actions}
        return texts.pop() if len(texts) == 1 else ""


class Similar(BaseJudge):
    """Scores each action by how much of it stands in the question."""

    id = "similar"

    def __init__(self, power: float = 4.0) -> None:
        self._power = power

    async def score(self, evidence: Evidence) -> Verdict:
        text, wanted = evidence.action.text, evidence.task.question.removeprefix("Compute ").removesuffix(".")
        share = SequenceMatcher(None, text, wanted, autojunk=False).ratio()
        return Verdict(10.0 * share**self._power, f"{share:.0%} of it is the expression", self.id)

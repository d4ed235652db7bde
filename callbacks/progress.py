"""What a person sees while it works: phase, episodes, judge calls, reward per agent, accuracy; a table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lightning import Callback, LightningModule, Trainer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from callbacks import find
from callbacks.validation import ValidationCallback
from mappa.play.rollout import Listener
from mappa.ranks import gather
from mappa.types import Action, Episode, Task


class ProgressCallback(Callback, Listener):
    """A live panel on a terminal; one line per epoch where output goes to a file."""

    def __init__(self) -> None:
        self._console = Console()
        self._live: Live | None = None
        self._phase = "starting"
        self._counts: Counter[str] = Counter()
        self._rewards: list[str] = []
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        if trainer.is_global_zero and self._console.is_terminal:
            self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    # ------------------------------------------------------------------ the rollout, on its own loop
    async def on_rollout_start(self, purpose: str, episodes: int) -> None:
        self._phase = "rollout" if purpose == "train" else f"validation on {purpose}"
        self._counts = Counter(expected=episodes)

    async def on_action(self, purpose: str, task: Task, actions: tuple[Action, ...]) -> None:
        self._counts["actions"] += 1

    async def on_episode(self, purpose: str, episode: Episode) -> None:
        self._counts["episodes"] += 1
        if episode.error is not None:
            self._counts["failed"] += 1

    # ------------------------------------------------------------------ Lightning's hooks
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._phase = "waiting for the judge"

    def on_train_batch_start(self, *args: object) -> None:
        self._phase = "update"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        rewards = [f"{a} {float(metrics[f'{a}/reward']):.2f}" for a in pl_module.agents if f"{a}/reward" in metrics]
        kept = sum(gather(len(trainer.datamodule.rows)))
        self._rewards = rewards
        if trainer.is_global_zero and self._live is None:
            number = f"epoch {trainer.datamodule.epoch + 1}/{trainer.max_epochs}"
            right = f"team {float(metrics['rollout/accuracy']):.2f}" if "rollout/accuracy" in metrics else ""
            learned = f"reward: {', '.join(rewards)}" if rewards else f"learned: {kept} actions"
            self._console.print(f"{number}  {right}  {learned}", soft_wrap=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self._live is None:
            self._console.print(self._accuracy(), soft_wrap=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.teardown(trainer, pl_module, "fit")
        if trainer.is_global_zero:
            self._console.print(self._closing(trainer))

    # ------------------------------------------------------------------ what is drawn
    def _results(self) -> list:
        found = find(self._trainer, ValidationCallback)
        return found.results if found else []

    def _accuracy(self) -> str:
        results = self._results()
        if not results:
            return ""
        last = results[-1]
        return f"held-out {last.accuracy['mean']:.2f} at {last.tokens:.0f} tokens (epoch {last.epoch})"

    def _panel(self) -> Table:
        counts, data = self._counts, self._trainer.datamodule
        table = Table.grid(padding=(0, 2))
        table.add_row("epoch", f"{min(data.epoch + 1, self._trainer.max_epochs)}/{self._trainer.max_epochs}")
        table.add_row("phase", self._phase)
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        table.add_row("episodes", f"{counts['episodes']}/{counts['expected']}, {counts['actions']} actions{failed}")
        table.add_row("verdicts", f"{len(data.verdicts)}")
        table.add_row("reward", ", ".join(self._rewards))
        table.add_row("accuracy", self._accuracy())
        return table

    def _closing(self, trainer: Trainer) -> Group:
        results, tables = self._results(), []
        for name in dict.fromkeys(result.name for result in results):
            mine = [result for result in results if result.name == name]
            title = f"{name}, {mine[0].accuracy['n']} held-out problems, graded by the task itself"
            tables.append(Table(title=title, box=box.SIMPLE_HEAD))
            for column in ("epoch", "accuracy", "gain (p)", "tokens an episode", "gain (p)"):
                tables[-1].add_column(column, no_wrap="gain" not in column)
            for result in mine[:1] + mine[1:][-1:]:
                right, spent = _spread(result.accuracy, ".3f"), _spread(result.tokens_interval, ".1f")
                gains = (_gain(result.gain), _gain(result.tokens_gain, ".1f"))
                tables[-1].add_row(str(result.epoch), right, gains[0], spent, gains[1])
        return Group(*tables, *([self._measures(results)] if any(result.metrics for result in results) else []))

    def _measures(self, results: list) -> Table:
        """The task's own measures, over all kinds of tasks, of the first validation and the last."""
        table = Table(title="The task's own measures")
        for column in ("set", "measure", "before", "now", "95% interval", "problems", "gain (p)"):
            table.add_column(column)
        for name in dict.fromkeys(result.name for result in results):
            mine = [result for result in results if result.name == name]
            first, last = mine[0], mine[-1]
            for measure, a in last.metrics.items():
                if "/" not in measure:
                    before = first.metrics.get(measure) if last is not first else None
                    mean = f"{before['mean']:.3f}" if before else ""
                    table.add_row(name, measure, mean, *_cells(a), _gain(last.gains.get(measure)))
        return table


def _cells(found: Mapping[str, float]) -> tuple[str, str, str]:
    """Mean, interval and number of problems."""
    return f"{found['mean']:.3f}", f"{found['low']:.3f} - {found['high']:.3f}", str(found["n"])


def _spread(found: Mapping[str, float], form: str) -> str:
    """Two lines, so that a row fits 80 columns."""
    return f"{found['mean']:{form}}\n[{found['low']:{form}}, {found['high']:{form}}]"


def _gain(found: Mapping[str, float] | None, form: str = ".3f") -> str:
    return f"{found['mean']:+{form}} ({found['p']:.2g})" if found else ""

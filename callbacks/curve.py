"""The learning curve as a picture in the run folder, redrawn after every epoch: `learning_curve.svg`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.validation import Result, ValidationCallback

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 360, 50, 40, 130, 40
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2")


class CurveCallback(Callback):
    """Mean reward per agent (thin lines) and held-out accuracy with its 95% interval (black), over epochs."""

    def __init__(self, path: str, title: str) -> None:
        self._path = Path(path)
        self._title = title
        self._rewards: dict[str, list[tuple[int, float]]] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for agent in pl_module.agents:
            reward = trainer.callback_metrics.get(f"{agent}/reward")
            if reward is not None:
                self._rewards.setdefault(agent, []).append((trainer.datamodule.epoch, float(reward)))
        if trainer.is_global_zero:
            validation = next((c for c in trainer.callbacks if isinstance(c, ValidationCallback)), None)
            results = validation.results if validation else []
            self._path.write_text(draw(self._title, trainer.max_epochs, self._rewards, results))

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": self._rewards}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rewards = state_dict["rewards"]


def draw(title: str, epochs: int, rewards: dict[str, list[tuple[int, float]]], results: Sequence[Result]) -> str:
    """An SVG document; epochs on the horizontal axis, 0-1 on the vertical one."""

    def x(epoch: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * epoch / max(1, epochs)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value

    def line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

    def label(at: float, height: float, text: str, colour: str = "#333", anchor: str = "start") -> str:
        return f'<text x="{at:.1f}" y="{height:.1f}" fill="{colour}" text-anchor="{anchor}">{text}</text>'

    parts = [label(_LEFT, 22, title), label(_WIDTH - _RIGHT, _HEIGHT - 8, "epoch", anchor="end")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line([(0, tick), (epochs, tick)], "#ddd", 1))
        parts.append(label(_LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end"))
    parts += [label(x(e), _HEIGHT - 22, str(e), anchor="middle") for e in sorted({0, epochs // 2, epochs})]
    right = _WIDTH - _RIGHT + 10
    for index, (agent, points) in enumerate(rewards.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        parts.append(line([(epoch + 0.5, value) for epoch, value in points], colour, 1.5))
        parts.append(label(right, _TOP + 20 * (index + 1), f"{agent} reward", colour))
    for name in dict.fromkeys(result.name for result in results):
        mine = [result for result in results if result.name == name]
        parts.append(line([(r.epoch, r.accuracy["mean"]) for r in mine], "#000", 2.5))
        parts += [line([(r.epoch, r.accuracy["low"]), (r.epoch, r.accuracy["high"])], "#000", 1.5) for r in mine]
    parts.append(label(right, _TOP + 20 * (len(rewards) + 1), "held-out accuracy", "#000"))
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return "\n".join([opening, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""])

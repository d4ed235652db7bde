"""The learning curve as an SVG picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 360, 50, 40, 130, 40
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2")


Points = Sequence[tuple[float, float]]


def draw(
    title: str,
    epochs: int,
    lines: Mapping[str, Points],
    accuracies: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]],
    below: Mapping[str, Points],
) -> str:
    """An SVG document; epochs on the horizontal axis, 0-1 on the vertical one.

    Args:
        lines: name -> (epoch, value on 0-1), drawn thin.
        accuracies: validation set -> (epochs trained before it, `mean`, `low` and `high`).
        below: name -> (epoch, value), in a second panel, each as a share of its own largest value; empty = no panel.
    """

    panels = [_Panel(epochs, 0, lines, accuracies)]
    shown = {name: points for name, points in below.items() if points}
    if shown:
        largest = {name: max(abs(value) for _, value in points) or 1.0 for name, points in shown.items()}
        shares = {
            f"{name} (max {largest[name]:.2g})": [(epoch, value / largest[name]) for epoch, value in points]
            for name, points in shown.items()
        }
        panels.append(_Panel(epochs, _HEIGHT, shares, {}))
    height = _HEIGHT * len(panels)
    parts = [_label(_LEFT, 22, title), *(part for panel in panels for part in panel.parts())]
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    style = 'font-family="sans-serif" font-size="12"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return "\n".join([opening, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""])


@dataclass(frozen=True)
class _Panel:
    """One pair of axes, `top` pixels from the top."""

    epochs: int
    top: int
    lines: Mapping[str, Points]
    accuracies: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]]

    def parts(self) -> list[str]:
        bottom, right = self.top + _HEIGHT, _WIDTH - _RIGHT
        parts = [_label(right, bottom - 8, "epoch", anchor="end")]
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            parts.append(self._line([(0, tick), (self.epochs, tick)], "#ddd", 1))
            parts.append(_label(_LEFT - 8, self._y(tick) + 4, f"{tick:g}", anchor="end"))
        for epoch in sorted({0, self.epochs // 2, self.epochs}):
            parts.append(_label(self._x(epoch), bottom - 22, str(epoch), anchor="middle"))
        for index, (name, points) in enumerate(self.lines.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            parts.append(self._line(points, colour, 1.5))
            parts.append(_label(right + 10, self.top + _TOP + 20 * (index + 1), name, colour))
        for found in self.accuracies.values():
            parts.append(self._line([(epoch, accuracy["mean"]) for epoch, accuracy in found], "#000", 2.5))
            parts += [self._line([(epoch, a["low"]), (epoch, a["high"])], "#000", 1.5) for epoch, a in found]
        if self.accuracies:
            parts.append(_label(right + 10, self.top + _TOP + 20 * (len(self.lines) + 1), "held-out accuracy", "#000"))
        return parts

    def _x(self, epoch: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * epoch / max(1, self.epochs)

    def _y(self, value: float) -> float:
        return self.top + _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value

    def _line(self, points: Points, colour: str, width: float) -> str:
        path = " ".join(f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _label(at: float, height: float, text: str, colour: str = "#333", anchor: str = "start") -> str:
    return f'<text x="{at:.1f}" y="{height:.1f}" fill="{colour}" text-anchor="{anchor}">{text}</text>'

"""The learning curve as an SVG picture. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 780, 360, 50, 40, 190, 40
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2")


Points = Sequence[tuple[float, float]]


def draw(
    title: str,
    epochs: int,
    lines: Mapping[str, Points],
    accuracies: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]],
    below: Mapping[str, Points],
    scatter: Mapping[str, Points],
) -> str:
    """An SVG document; epochs on the horizontal axis, 0-1 on the vertical one.

    Args:
        lines: name -> (epoch, value on 0-1), drawn thin.
        accuracies: validation set -> (epochs trained before it, `mean`, `low` and `high`).
        below: name -> (epoch, value), in a second panel, each as a share of its own largest value; empty = no panel.
        scatter: name -> (value, accuracy), dots in a last panel with Pearson's r, values as shares; empty = no panel.
    """
    panels: list[_Panel | _Scatter] = [_Panel(max(1, epochs), 0, lines, accuracies)]
    shown = {name: points for name, points in below.items() if points}
    if shown:
        shares = {}
        for name, points in shown.items():
            largest = _largest(value for _, value in points)
            shares[f"{name} (max {largest:.3g})"] = [(epoch, value / largest) for epoch, value in points]
        panels.append(_Panel(max(1, epochs), _HEIGHT, shares, {}))
    dots = {name: points for name, points in scatter.items() if len(points) > 1}
    if dots:
        panels.append(_Scatter(1.0, _HEIGHT * len(panels), dots))
    height = _HEIGHT * len(panels)
    parts = [_label(_LEFT, 22, title), *(part for panel in panels for part in panel.parts())]
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    style = 'font-family="sans-serif" font-size="12"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return "\n".join([opening, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""])


def _largest(values: Iterable[float]) -> float:
    """Of their magnitudes; 1 where all are 0."""
    return max(map(abs, values)) or 1.0


@dataclass(frozen=True)
class _Axes:
    """A pair of axes, `top` pixels from the top; the vertical one goes from 0 to 1, the horizontal one to `end`."""

    end: float
    top: int

    def _x(self, at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / self.end

    def _y(self, value: float) -> float:
        return self.top + _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value

    def _line(self, points: Points, colour: str, width: float) -> str:
        path = " ".join(f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

    def _frame(self, horizontal: str) -> list[str]:
        parts = [_label(_WIDTH - _RIGHT, self.top + _HEIGHT - 8, horizontal, anchor="end")]
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            parts.append(self._line([(0, tick), (self.end, tick)], "#ddd", 1))
            parts.append(_label(_LEFT - 8, self._y(tick) + 4, f"{tick:g}", anchor="end"))
        return parts

    def _legend(self, row: int, name: str, colour: str) -> str:
        return _label(_WIDTH - _RIGHT + 10, self.top + _TOP + 20 * (row + 1), name, colour)


@dataclass(frozen=True)
class _Panel(_Axes):
    """Values over epochs."""

    lines: Mapping[str, Points]
    accuracies: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]]

    def parts(self) -> list[str]:
        parts = self._frame("epoch")
        for epoch in sorted({0, int(self.end) // 2, int(self.end)}):
            parts.append(_label(self._x(epoch), self.top + _HEIGHT - 22, str(epoch), anchor="middle"))
        for index, (name, points) in enumerate(self.lines.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            parts += [self._line(points, colour, 1.5), self._legend(index, name, colour)]
        for found in self.accuracies.values():
            parts.append(self._line([(epoch, accuracy["mean"]) for epoch, accuracy in found], "#000", 2.5))
            parts += [self._line([(epoch, a["low"]), (epoch, a["high"])], "#000", 1.5) for epoch, a in found]
        if self.accuracies:
            parts.append(self._legend(len(self.lines), "held-out accuracy", "#000"))
        return parts


@dataclass(frozen=True)
class _Scatter(_Axes):
    """Accuracy over each value, as a share of its largest."""

    dots: Mapping[str, Points]

    def parts(self) -> list[str]:
        parts = self._frame("share of its largest, against held-out accuracy")
        for index, (name, points) in enumerate(self.dots.items()):
            colour, largest = _COLOURS[index % len(_COLOURS)], _largest(value for value, _ in points)
            for value, accuracy in points:
                at = f'cx="{self._x(value / largest):.1f}" cy="{self._y(accuracy):.1f}"'
                parts.append(f'<circle {at} r="4" fill="{colour}"/>')
            parts.append(self._legend(index, f"{name}, r = {_correlation(points)}", colour))
        return parts


def _correlation(points: Points) -> str:
    """Pearson's; "?" where one side does not vary."""
    try:
        return f"{statistics.correlation(*zip(*points, strict=True)):.2f}"
    except statistics.StatisticsError:
        return "?"


def _label(at: float, height: float, text: str, colour: str = "#333", anchor: str = "start") -> str:
    return f'<text x="{at:.1f}" y="{height:.1f}" fill="{colour}" text-anchor="{anchor}">{text}</text>'

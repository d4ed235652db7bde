"""The learning curve as an SVG picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 360, 50, 40, 130, 40
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2")


def draw(
    title: str,
    epochs: int,
    rewards: Mapping[str, Sequence[tuple[int, float]]],
    accuracies: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]],
) -> str:
    """An SVG document; epochs on the horizontal axis, 0-1 on the vertical one.

    Args:
        rewards: agent -> (epoch, mean reward on 0-1).
        accuracies: validation set -> (epochs trained before it, `mean`, `low` and `high`).
    """

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
    for found in accuracies.values():
        parts.append(line([(epoch, accuracy["mean"]) for epoch, accuracy in found], "#000", 2.5))
        parts += [line([(epoch, a["low"]), (epoch, a["high"])], "#000", 1.5) for epoch, a in found]
    parts.append(label(right, _TOP + 20 * (len(rewards) + 1), "held-out accuracy", "#000"))
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return "\n".join([opening, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""])

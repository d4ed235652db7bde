"""The learning curve as a picture, by matplotlib."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]


def draw(
    path: Path,
    title: str,
    epochs: int,
    lines: Mapping[str, Points],
    accuracies: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]],
    below: Mapping[str, Points],
    scatter: Mapping[str, Points],
) -> None:
    """Write the picture, in the format of the path's suffix; panels stand below each other.

    Args:
        lines: name -> (epoch, value on 0-1), drawn thin.
        accuracies: validation set -> (epochs trained before it, `mean`, `low` and `high`).
        below: name -> (epoch, value), in a second panel, each as a share of its own largest value; empty = no panel.
        scatter: name -> (value, accuracy), dots in a last panel with Pearson's r, values as shares; empty = no panel.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown = {name: points for name, points in below.items() if points}
    dots = {name: points for name, points in scatter.items() if len(points) > 1}
    count = 1 + bool(shown) + bool(dots)
    figure = Figure(figsize=(8.6, 3.8 * count))
    panels = iter(figure.subplots(count, squeeze=False)[:, 0])
    _curve(next(panels), epochs, lines, accuracies)
    if shown:
        _shares(next(panels), epochs, shown)
    if dots:
        _scatter(next(panels), dots)
    for axes in figure.axes:
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    figure.suptitle(title, x=0.07, ha="left", fontsize=11)
    figure.subplots_adjust(left=0.07, right=0.7, bottom=0.13 / count, top=1 - 0.1 / count, hspace=0.3)
    # equal runs leave equal files, and text stays text
    with matplotlib.rc_context({"svg.hashsalt": "mappa", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _curve(
    axes: Axes,
    epochs: int,
    lines: Mapping[str, Points],
    accuracies: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]],
) -> None:
    _lines(axes, epochs, lines)
    for name, found in accuracies.items():
        means = [accuracy["mean"] for _, accuracy in found]
        spread = [[a["mean"] - a["low"] for _, a in found], [a["high"] - a["mean"] for _, a in found]]
        label = "held-out accuracy" if len(accuracies) == 1 else f"held-out, {name}"
        colour = "black" if len(accuracies) == 1 else None
        axes.errorbar([e for e, _ in found], means, spread, color=colour, lw=2.2, capsize=3, marker="o", label=label)


def _shares(axes: Axes, epochs: int, found: Mapping[str, Points]) -> None:
    shares = {}
    for name, points in found.items():
        largest = _largest(value for _, value in points)
        shares[f"{name} (max {largest:.3g})"] = [(epoch, value / largest) for epoch, value in points]
    _lines(axes, epochs, shares)


def _lines(axes: Axes, epochs: int, lines: Mapping[str, Points]) -> None:
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), lw=1.4, marker=".", label=name)
    axes.set(xlabel="epoch", xlim=(-0.02 * max(1, epochs), 1.02 * max(1, epochs)))
    axes.xaxis.get_major_locator().set_params(integer=True)


def _scatter(axes: Axes, dots: Mapping[str, Points]) -> None:
    for name, points in dots.items():
        largest = _largest(value for value, _ in points)
        label = f"{name}, r = {_correlation(points)}"
        axes.plot([value / largest for value, _ in points], [accuracy for _, accuracy in points], "o", label=label)
    axes.set_xlabel("share of its largest, against held-out accuracy")


def _largest(values: Iterable[float]) -> float:
    """Of their magnitudes; 1 where all are 0."""
    return max(map(abs, values)) or 1.0


def _correlation(points: Points) -> str:
    """Pearson's; "?" where one side does not vary."""
    try:
        return f"{statistics.correlation(*zip(*points, strict=True)):.2f}"
    except statistics.StatisticsError:
        return "?"

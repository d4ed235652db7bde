"""Pictures of a laboratory's arms, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def curves(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Held-out accuracy with its interval over training episodes, one panel for each number of seats."""
    from matplotlib.figure import Figure

    sizes = sorted({numbers["seats"] for numbers in found.values()})
    figure = Figure(figsize=(5 * len(sizes), 4), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], sizes, strict=True):
        for arm, numbers in found.items():
            if numbers["seats"] != size:
                continue
            low, mean, high = ([point[key] for point in numbers["accuracy"]] for key in ("low", "mean", "high"))
            (line,) = axes.plot(numbers["trained"], mean, label=arm.partition("-")[2])
            axes.fill_between(numbers["trained"], low, high, alpha=0.15, color=line.get_color())
        axes.set(title=f"{size} seats", xlabel="training episodes", ylim=(0, 1))
        axes.legend()
    figure.axes[0].set_ylabel("held-out accuracy")
    figure.savefig(path)

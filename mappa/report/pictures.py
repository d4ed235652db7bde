"""Pictures of a laboratory's arms, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mappa.report.credit import break_even, rho2_flips, rho2_outcome
from mappa.report.lab import difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = Mapping[str, Mapping[str, Any]]
"""Arm -> what `mappa.report.lab.measure` found."""


def draw(found: Found, folder: Path, name: str) -> list[Path]:
    """Accuracy over episodes; where they are there, episodes against seats, and the map of judges who err."""
    paths = [curves(found, folder / f"{name}.svg")]
    if len(_ratios(found)) > 1:
        paths.append(ratios(found, folder / f"{name}-ratio.svg"))
    if _noisy(found):
        paths.append(noise(found, folder / f"{name}-map.svg"))
    return paths


def curves(found: Found, path: Path) -> Path:
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
    return path


def ratios(found: Found, path: Path) -> Path:
    """Episodes that the outcome takes for each that the judge of actions takes, and 1 / rho2, over seats."""
    from matplotlib.figure import Figure

    measured = _ratios(found)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    p = sum(found[f"{seats}-rubric_relay"]["p"] for seats in measured) / len(measured)
    sizes = range(2, max(measured) + 1)
    axes.plot(sizes, [1 / rho2_outcome(p, seats) for seats in sizes], "--", label=f"1 / rho2 at p = {p:.2f}")
    axes.plot(list(measured), list(measured.values()), "o", label="measured, to half of the gain")
    axes.set(xlabel="seats", ylabel="episodes, outcome / each action", xticks=list(measured))
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()
    figure.savefig(path)
    return path


def _ratios(found: Found) -> dict[int, float]:
    """Seats -> episodes to the same level, outcome over judge of actions; without those where one never got there."""
    sizes = sorted({numbers["seats"] for numbers in found.values()})
    pairs = {k: [found.get(f"{k}-{judge}", {}).get("episodes") for judge in ("outcome", "rubric_relay")] for k in sizes}
    return {k: outcome / action for k, (outcome, action) in pairs.items() if outcome and action}


def noise(found: Found, path: Path) -> Path:
    """Where a judge who errs still says more than the outcome, and what those who were tried came to."""
    import numpy as np
    from matplotlib.figure import Figure

    arms = _noisy(found)
    seats = found[next(iter(arms))]["seats"]
    outcome, perfect = found[f"{seats}-outcome"], found[f"{seats}-rubric_relay"]
    p = perfect["p"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes, flips = np.arange(2, 17), np.linspace(0, 0.48, 49)
    gain = [[np.log10(rho2_flips(p, f) / rho2_outcome(p, int(k))) for k in sizes] for f in flips]
    shown = left.pcolormesh(sizes, flips, gain, cmap="RdBu_r", vmin=-2, vmax=2, shading="nearest")
    figure.colorbar(shown, ax=left, label="log10 of rho2, judge over outcome")
    left.plot(sizes, [break_even(p, int(k)) for k in sizes], "k", label="break-even")
    better = {flip: difference(found[arm], outcome)["mean"] > 0 for arm, flip in arms.items()}
    for flip, above in better.items():
        left.plot(seats, flip, "k^" if above else "kv")
    left.plot([], [], "k^", label="tried: better than the outcome")
    left.plot([], [], "kv", label="worse")
    left.set(xlabel="seats", ylabel="share of actions judged wrongly", title=f"formula, p = {p:.2f}")
    left.legend(loc="lower right", fontsize="small")
    _over_noise(right, {"": 0.0} | arms, [perfect, *(found[arm] for arm in arms)], outcome)
    right.axvline(break_even(p, seats), color="k", linestyle=":", label="break-even (formula)")
    right.set(title=f"{seats} seats", xlabel="share of actions judged wrongly", ylabel="accuracy, mean over the run")
    right.legend(fontsize="small")
    figure.savefig(path)
    return path


def _over_noise(axes: Axes, flips: Mapping[str, float], tried: list[Mapping[str, Any]], outcome: Mapping) -> None:
    means = [numbers["area"]["mean"] for numbers in tried]
    errors = [[abs(n["area"][end] - n["area"]["mean"]) for n in tried] for end in ("low", "high")]
    axes.errorbar(list(flips.values()), means, errors, fmt="o-", capsize=3, label="judge of actions")
    axes.axhline(outcome["area"]["mean"], color="C1", label="outcome")
    axes.axhspan(outcome["area"]["low"], outcome["area"]["high"], color="C1", alpha=0.15)


def _noisy(found: Found) -> dict[str, float]:
    """Arm -> share of its actions that are judged wrongly, either way."""
    return {arm: float(arm.partition("flips=")[2]) for arm in found if "flips=" in arm}

"""The pictures of the adapter and the report, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def _figure(width: float = 7, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def plot_loss(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Training and validation loss over steps, from a trainer's log history."""
    figure, axes = _figure()
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(h["step"], h[key]) for h in history if key in h]
        if points:
            axes.plot(*zip(*points), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="loss a token (nats)", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def plot_rates(rates: Mapping[str, Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Accuracy by group with 95 % intervals: `rates[group]` holds `em` and `ex`, each {value, low, high, n}."""
    figure, axes = _figure()
    groups = [g for g, r in rates.items() if r["ex"]["n"]]
    for offset, (measure, label) in enumerate((("em", "EM"), ("ex", "EX"))):
        values = [rates[g][measure]["value"] for g in groups]
        errors = [
            [max(0.0, v - rates[g][measure]["low"]) for g, v in zip(groups, values)],
            [max(0.0, rates[g][measure]["high"] - v) for g, v in zip(groups, values)],
        ]
        places = [i + (offset - 0.5) * 0.38 for i in range(len(groups))]
        axes.bar(places, values, 0.36, yerr=errors, label=label, capsize=3)
    axes.set_xticks(range(len(groups)), [f"{g}\n(n={rates[g]['ex']['n']:,})" for g in groups])
    axes.set(ylim=(0, 1), ylabel="share")
    axes.set_title(title, fontsize="medium")
    figure.legend(frameon=False, loc="outside right upper")
    figure.savefig(path, dpi=110)


def plot_errors(errors: Mapping[str, int], confusion: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """Predictions by what differs from their gold, beside predicted aggregates (columns) by gold aggregate (rows)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.spines[["top", "right"]].set_visible(False)
    bars = left.barh(list(errors), list(errors.values()))
    left.bar_label(bars, padding=3)
    left.invert_yaxis()
    left.set(xlabel="predictions", title="differs in (one may count in several)")
    names = sorted({name for counts in confusion.values() for name in counts} | set(confusion))
    counts = [[confusion.get(gold, {}).get(name, 0) for name in names] for gold in names]
    shares = [[c / (sum(row) or 1) for c in row] for row in counts]
    if names:
        right.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            right.text(x, y, f"{count:,}", ha="center", va="center", color="white" if shares[y][x] > 0.6 else "black")
    right.set_xticks(range(len(names)), names)
    right.set_yticks(range(len(names)), names)
    right.set(xlabel="predicted aggregate", ylabel="gold aggregate", title="aggregates, of predictions that parse")
    figure.savefig(path, dpi=110)


def plot_latency(milliseconds: Sequence[float], path: Path, *, target: float) -> None:
    """Latencies of single queries as a cumulative curve, with the target as a line."""
    figure, axes = _figure()
    ordered = sorted(milliseconds)
    axes.step(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))], where="post")
    axes.axvline(target, linestyle="--", color="tab:red", label=f"target {target:.0f} ms")
    axes.set(xlabel="ms a query, one at a time", ylabel="share answered", xlim=(0, None), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)


def plot_calibration(calibration: Mapping[str, Any] | None, path: Path) -> None:
    """Risk against coverage, beside share right against confidence; empty axes where nothing was answered."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    left.set(xlabel="share of questions answered, the surest first", ylabel="share of those wrong", xlim=(0, 1))
    right.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    right.plot([0, 1], [0, 1], ":", color="gray", label="calibrated")
    if calibration is not None:
        coverage = [point["coverage"] for point in calibration["curve"]]
        left.plot(coverage, [p["risk"] for p in calibration["curve"]], "o-", markersize=3, label="by confidence")
        left.plot(coverage, [p["optimal"] for p in calibration["curve"]], "--", color="tab:green", label="optimal")
        left.axhline(calibration["aurc_random"], linestyle=":", color="gray", label="no order")
        area, least = calibration["aurc"], calibration["aurc_optimal"]
        left.set(ylim=(0, None), title=f"risk and coverage: area {area:.3f}, optimal {least:.3f}")
        parts = calibration["reliability"]
        right.plot([p["confidence"] for p in parts], [p["right"] for p in parts], "o-", markersize=4, label="measured")
        right.set(title=f"expected calibration error {calibration['ece']:.3f}")
        left.legend()
    right.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=110)

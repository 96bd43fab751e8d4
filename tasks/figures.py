"""The pictures of a training, as matplotlib figures: readable without colour, light enough to log with each run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

MARKERS = {"challenger": ("o", "#0b5fa5", "//"), "champion": ("s", "#c8641b", ".."), "popularity": ("^", "#767676", "")}


def loss_figure(losses: Sequence[tuple[int, float]]) -> Figure:
    """Training loss by step, with a running mean over a twentieth of the steps."""
    figure, axes = _axes("step", "loss (nats)", "training loss")
    steps = np.array([step for step, _ in losses])
    values = np.array([loss for _, loss in losses])
    axes.plot(steps, values, color="#b9cfe2", linewidth=0.8, label="step")
    width = max(1, len(values) // 20)
    if len(values) > width:
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], mean, color="#0b5fa5", linewidth=1.8, label=f"mean of {width}")
    axes.legend(frameon=False)
    return figure


def slice_figure(models: Mapping[str, Mapping[str, Any]], *, metric: str) -> Figure:
    """`metric` by slice, one group of bars a slice, one bar a model."""
    names = ["overall", *sorted({name for model in models.values() for name in model["by_slice"]})]
    figure, axes = _axes("", metric, f"{metric} by slice, on the same rows")
    width = 0.8 / max(1, len(models))
    for place, (model, report) in enumerate(models.items()):
        values = [
            float(report["overall"][metric] if name == "overall" else report["by_slice"].get(name, {}).get(metric, 0.0))
            for name in names
        ]
        _, colour, hatch = MARKERS.get(model, ("o", "#444444", ""))
        at = np.arange(len(names)) + (place - (len(models) - 1) / 2) * width
        bars = axes.bar(at, values, width, label=model, color=colour, hatch=hatch, edgecolor="white")
        axes.bar_label(bars, fmt="%.3f", fontsize=6, padding=1)
    rows = next(iter(models.values()))
    parts = {"overall": rows["overall"], **rows["by_slice"]}
    counts = [int(parts.get(name, {}).get("rows", 0)) for name in names]
    labels = [f"{name.replace('_', ' ')}\nn={count}" for name, count in zip(names, counts, strict=True)]
    axes.set_xticks(np.arange(len(names)), labels, fontsize=8)
    axes.legend(frameon=False)
    return figure


def popularity_figure(recommended: Mapping[str, Mapping[str, int]]) -> Figure:
    """Share of the shown slots that the most shown items take: the nearer the corner, the narrower the offer."""
    figure, axes = _axes("share of the recommended items, most shown first", "share of slots", "what is recommended")
    for model, counts in recommended.items():
        shown = np.sort(np.array(list(counts.values()), dtype=float))[::-1]
        if not len(shown):
            continue
        _, colour, _ = MARKERS.get(model, ("o", "#444444", ""))
        style = {"challenger": "-", "champion": "--"}.get(model, ":")
        share = np.concatenate([[0.0], np.cumsum(shown) / shown.sum()])
        axes.plot(np.linspace(0, 1, len(share)), share, style, color=colour, label=f"{model} ({len(shown)} items)")
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=0.8)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _axes(x: str, y: str, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.2, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    return figure, axes

"""The picture of `bench.continual`: each arm's ranking over the full retrain's, step by step, and what it costs."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.continual import Point

DRAWN = {"stale": "#9a9a9a", "fine-tune": "#d1812c", "default": "#1b6ca8"}
GREEN = "#2e7d4f"


def draw(points: list["Point"], file: Path, *, name: str) -> None:
    """Left: NDCG@10 over the full retrain's, the mean of the seeds and their range. Right: NDCG against cost."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.fonttype": "path", "svg.hashsalt": "ratchet", "font.size": 9}
    full = {(point.seed, point.step): point for point in points if point.arm == "full"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2), layout="constrained")
    for arm, colour in DRAWN.items():
        shares: dict[int, list[float]] = {}
        for point in points:
            if point.arm == arm:
                shares.setdefault(point.step, []).append(point.ndcg10 / full[point.seed, point.step].ndcg10)
        steps = sorted(shares)
        left.plot(steps, [statistics.mean(shares[step]) for step in steps], color=colour, marker="o", label=arm)
        left.fill_between(
            steps,
            [min(shares[step]) for step in steps],
            [max(shares[step]) for step in steps],
            color=colour,
            alpha=0.15,
        )
    left.axhline(1.0, color=GREEN, linewidth=1, label="full retrain")
    left.set_xlabel("increments since the full training")
    left.set_ylabel("NDCG@10 over the full retrain's")
    left.set_title(f"{name}: the next period, after each increment")
    left.legend(frameon=False)
    left.set_xticks(sorted({point.step for point in points}))
    arms = [arm for arm in dict.fromkeys(point.arm for point in points) if arm not in ("stale", "full")]
    for number, arm in enumerate(arms, start=1):
        of_arm = [point for point in points if point.arm == arm]
        cost = statistics.mean(point.cpu_s / full[point.seed, point.step].cpu_s for point in of_arm)
        share = statistics.mean(point.ndcg10 / full[point.seed, point.step].ndcg10 for point in of_arm)
        colour = DRAWN.get(arm, "#555555")
        right.plot([100 * cost], [share], "o", color=colour, markersize=3, label=f"{number}  {arm}")
        at = (4, 4 if number % 2 else -8)
        right.annotate(
            str(number), (100 * cost, share), textcoords="offset points", xytext=at, fontsize=8, color=colour
        )
    right.axhline(1.0, color=GREEN, linewidth=1)
    right.axvline(8.0, color="#bbbbbb", linewidth=1, linestyle="--")
    right.set_xlabel("CPU-seconds, % of the full retrain's")
    right.set_title("mean over the increments")
    right.legend(frameon=False, fontsize=7, handlelength=0, loc="center left", bbox_to_anchor=(1.0, 0.5))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)

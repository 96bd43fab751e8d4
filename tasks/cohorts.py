"""What a challenger does to frozen cohorts: forgetting and stability, beside the offline check.

The rows are those of the panel (`model.continual.cohorts`) that the champion's data versions held. They follow from the
ledger and the events, so they stay the same until there is another champion; who is forgotten is not in them.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from model.continual.cohorts import Cohorts, freeze, panel_speaks
from model.continual.judging import Judgement, Limits
from model.continual.stability import StabilityBounds
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings
from tasks.allowed import consented
from tasks.describing_users import with_user_attributes
from tasks.jobs import Mode, TrainingJob
from tasks.replaying import seen_by


def load_cohorts(home: Home, settings: Settings, job: TrainingJob) -> Cohorts | None:
    """None without a champion, and where its panel is empty: too few users when its full retrain was made."""
    if job.champion is None or not settings.forgetting.users_share:
        return None
    stated, ledger, found = settings.forgetting, Ledger.of(home, settings), consented(home, settings)
    champion = ledger.version(job.champion)
    base, sequences = _base(ledger, champion), found.sequences
    seen_N = seen_by(base).among(sequences)
    users = int((sequences.count_U(seen_N) > 0).sum())
    rows_N = found.panel_N & seen_by(champion).among(sequences)
    if not rows_N.any() or not panel_speaks(users, share=stated.users_share, least=stated.min_users):
        return None
    chosen_U = _at_most(sequences.count_U(rows_N) > 0, most=settings.evaluation.max_users, seed=settings.train.seed)
    histories = with_user_attributes(
        Lake.of(home, settings.lake),
        sequences.histories(rows_N & sequences.of_users(chosen_U)),
        names=settings.features.user,
    )
    learnt_N = found.allowed_N & seen_N
    items, place = sequences.met(learnt_N)
    count_I = np.bincount(place[sequences.item_N[learnt_N]], minlength=len(items))
    return freeze(
        histories,
        trained=dict(zip(map(str, items), map(int, count_I), strict=True)),
        old_before_us=base.cutoff_us,
        rows_per_user=stated.rows_per_user,
    )


def _base(ledger: Ledger, version: VersionRecord) -> VersionRecord:
    """The full retrain that a version goes back to."""
    while version.mode != Mode.FULL and version.parent is not None:
        version = ledger.version(version.parent)
    return version


def _at_most(which_U: np.ndarray, *, most: int, seed: int) -> np.ndarray:
    at = np.flatnonzero(which_U)
    if len(at) > most:
        at = np.random.default_rng(seed).choice(at, size=most, replace=False)
    chosen_U = np.zeros(len(which_U), dtype=bool)
    chosen_U[at] = True
    return chosen_U


def limits_of(settings: Settings, mode: Mode) -> Limits:
    """A full retrain has stability bounds of its own."""
    stated = settings.forgetting
    prefix = "full_" if mode is Mode.FULL else ""
    overlap, shift, surge = (getattr(stated, f"{prefix}{name}") for name in ("overlap", "shift", "surge"))
    bounds = StabilityBounds(overlap, shift, surge, min_users=stated.min_users, prefix=prefix)
    return Limits(stated.margin, stated.min_users, bounds, hide_below=settings.privacy.k)


def forgetting_report(judgement: Judgement | None, *, k: int) -> dict[str, Any] | None:
    """As it stands in evaluation.json. Of a cohort that says nothing there are no figures."""
    if judgement is None:
        return None
    return {
        "k": k,
        "cohorts": [asdict(change) | {"said": change.said} for change in judgement.cohorts],
        "stability": None if judgement.stability is None else asdict(judgement.stability),
        "breaches": list(judgement.breaches),
    }


def forgetting_metrics(report: Mapping[str, Any] | None) -> dict[str, float]:
    """Flat names for MLflow: `forgetting/ndcg@10/tail_items/before`, …/after, …/change; `stability/overlap@10`, …"""
    if report is None:
        return {}
    k = report["k"]
    found = {
        f"forgetting/ndcg@{k}/{change['cohort']}/{name}": float(change[name])
        for change in report["cohorts"]
        if change["judged"]
        for name in ("before", "after", "change", "low", "high")
    }
    if report["stability"] is not None:
        names = {"overlap": f"overlap@{k}", "shift": "shift", "surge": f"surge@{k}"}
        found |= {f"stability/{stated}": float(report["stability"][name]) for name, stated in names.items()}
    return found


def forgetting_lines(report: Mapping[str, Any] | None) -> tuple[str, ...]:
    """A line a cohort that was judged, and one for stability, for the terminal."""
    if report is None:
        return ("forgetting: not measured, there is no champion or no panel",)
    lines = []
    for each in report["cohorts"]:
        if each["judged"]:
            before, after, change = _figures(each)
            stated = f"ndcg@{report['k']} {before} → {after}, {change} over {each['users']:,} users"
            lines.append(f"{each['cohort']}: {stated}: {each['said']}")
    return (*lines, _stability_line(report)) if report["stability"] is not None else tuple(lines)


def forgetting_markdown(report: Mapping[str, Any] | None) -> str:
    """A table of the cohorts, for the Prefect UI."""
    if report is None:
        return "Forgetting: not measured, there is no champion or no panel.\n\n"
    rows = "\n".join(
        f"| {each['cohort']} | {each['users']:,} | {each['rows']:,} | {' | '.join(_figures(each))} | {each['said']} |"
        for each in report["cohorts"]
    )
    stable = "" if report["stability"] is None else f"{_stability_line(report)}\n\n"
    named = f"| cohort | users | rows | NDCG@{report['k']} champion | challenger | change | |"
    return f"{named}\n|---|---|---|---|---|---|---|\n{rows}\n\n{stable}"


def _figures(change: Mapping[str, Any]) -> tuple[str, str, str]:
    if not change["judged"]:
        return "–", "–", "–"
    moved = f"{change['change']:+.1%} [{change['low']:+.1%}, {change['high']:+.1%}]"
    return f"{change['before']:.4f}", f"{change['after']:.4f}", moved


def _stability_line(report: Mapping[str, Any]) -> str:
    said = report["stability"]
    return (
        f"stability: top-{report['k']} overlap {said['overlap']:.3f}, scores moved {said['shift']:.3f} deviations, "
        f"largest surge of one item {said['surge']:.1%} over {said['users']:,} users"
    )

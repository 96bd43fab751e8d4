"""Poisoned increments on a real log: how many are stopped before anybody sees them, and how many clean ones with them.

    ratchet bench forgetting --data ../shared/data/ml-100k

A champion learns from the first 60,000 ratings of MovieLens 100k. Each of ten clean increments goes on from it with
other 4,000 rows of what follows. Each of ten poisoned ones has the rows of a clean one, and poison:

- bots: accounts that take items drawn uniformly from the catalogue;
- popularity bomb: many users, half of them new, praise one item;
- shuffled: copies of real rows, on each the item of another.

There is as much poison as 5, 10 or 20 % of the real rows that the champion learnt from; the tenth has no poison on top,
but all its items are shuffled. An increment is stopped by what `ratchet train` judges with, under the default settings:
the offline comparison on its own newest rows (poison among them), the frozen cohorts, or stability. The panel is a
tenth of the users here, not a twentieth, for the log has 943 users only. `[forgetting] shift` is .11, as somebody sets
it who has seen that clean increments of this log move scores by .05 to .07; two figures say what the default stops.

Figures without a bar say what is caught of poison that is 5 to 20 % of the increment alone. It is little, and it
changes little: the panel's NDCG stays within its noise. That much is for the door to find (`ratchet bench poison`).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.poison_worlds import Poison, movielens, poisoned
from bench.rows import Row, at_least
from model.continual.cohorts import Cohorts, freeze, in_panel
from model.continual.increment import fit_increment
from model.continual.judging import Limits, holds_offline, judge_cohorts
from model.continual.options import IncrementOptions
from model.evaluation import RankerRecommender, evaluate
from model.fit import fit_full
from model.fitted import Fitted
from model.options import Device, NetworkOptions, TrainOptions
from model.sequences import Histories, merge, split_by_time
from relations.errors import UsageError
from stores.settings import Settings
from tasks.cohorts import limits_of
from tasks.jobs import Mode

SEED = 20_260_301
BASE, ROWS = 60_000, 4_000
PANEL = 0.1
SHIFT = 0.11
SHARES = (0.05, 0.1, 0.2)
SHUFFLED, FULLY = "shuffled", "fully shuffled"
KINDS = ("bots", "popularity bomb", SHUFFLED)
TRAINING = TrainOptions(epochs=8, device=Device.CPU, threads=1)
NETWORK = NetworkOptions()


@dataclass(frozen=True)
class World:
    """A champion, and the rows after those that it learnt from, without the panel's."""

    champion: Fitted
    past: Histories
    cohorts: Cohorts
    later: pa.Table
    catalogue: Sequence[str]
    training: TrainOptions
    limits: Limits
    wide: Limits
    """The default ones."""
    tolerance: float


@dataclass
class Count:
    stopped: int = 0
    of: int = 0
    by: Counter[str] = field(default_factory=Counter)

    def add(self, reasons: Sequence[str]) -> None:
        self.of += 1
        self.stopped += bool(reasons)
        self.by.update(set(reasons))

    @property
    def said(self) -> str:
        named = ", ".join(f"{name} {count}" for name, count in sorted(self.by.items()))
        return f"{self.stopped} of {self.of}{f'; by {named}' if named else ''}"


def champion_of(
    log: pa.Table,
    *,
    base: int,
    share: float = PANEL,
    network: NetworkOptions = NETWORK,
    training: TrainOptions = TRAINING,
) -> World:
    """Learn from the first `base` rows of `log`, those of the panel aside."""
    users = log.column("user").to_pylist()
    settings = Settings()
    distinct = sorted(set(users))
    chosen = {user for user, inside in zip(distinct, in_panel(distinct, share=share, least=1), strict=True) if inside}
    panel_N = np.array([user in chosen for user in users])
    first_N = np.arange(len(users)) < base
    learnt, held, later = (log.filter(pa.array(which_N)) for which_N in _parts(first_N, panel_N))
    past, panel = Histories.from_table(learnt), Histories.from_table(held)
    cohorts = freeze(
        panel,
        trained=Counter(learnt.column("item_id").to_pylist()),
        old_before_us=int(past.time_N.max()) + 1,
        rows_per_user=settings.forgetting.rows_per_user,
    )
    if cohorts is None:
        raise UsageError(f"the first {base} rows hold no panel; take more of them, or a larger share than {share}")
    wide = limits_of(settings, Mode.INCREMENTAL)
    return World(
        champion=fit_full(past, network=network, training=training),
        past=past,
        cohorts=cohorts,
        later=later,
        catalogue=tuple(map(str, past.items)),
        training=training,
        limits=replace(wide, stability=replace(wide.stability, shift=SHIFT)),
        wide=wide,
        tolerance=settings.evaluation.tolerance,
    )


def _parts(first_N: np.ndarray, panel_N: np.ndarray) -> Iterator[np.ndarray]:
    yield first_N & ~panel_N
    yield first_N & panel_N
    yield ~first_N & ~panel_N


def spoilt(rows: pa.Table, kind: str, count: int, *, catalogue: Sequence[str], rng: np.random.Generator) -> pa.Table:
    """`rows` with `count` rows of poison on top, in time order; fully shuffled adds none."""
    at = rows.schema.get_field_index("item_id")
    if kind == FULLY:
        return rows.set_column(at, "item_id", rows.column("item_id").take(pa.array(rng.permutation(len(rows)))))
    if kind == SHUFFLED:
        copies = rows.take(pa.array(rng.integers(0, len(rows), count)))
        items = rows.column("item_id").take(pa.array(rng.integers(0, len(rows), count)))
        return pa.concat_tables([rows, copies.set_column(at, "item_id", items)]).sort_by("event_time")
    return poisoned(rows, Poison(kind, count / len(rows), added=True), catalogue=catalogue, rng=rng)


def stopped_by(world: World, rows: pa.Table) -> tuple[list[str], list[str]]:
    """Train an increment on `rows` and judge it as `ratchet train` does; names what stops it, and what would within
    the default limits."""
    new = Histories.from_table(rows)
    split = split_by_time(new, holdout_share=0.1)
    fitted = fit_increment(
        world.champion, new=split.train, past=world.past, training=world.training, increment=IncrementOptions()
    )
    champion, challenger = RankerRecommender.of(world.champion), RankerRecommender.of(fitted)
    holdout = split_by_time(merge(world.past, new)[0], cutoff_us=split.cutoff_us).holdout
    ours, theirs = (evaluate(model, holdout, draws=0) for model in (challenger, champion))
    found = judge_cohorts(champion=champion, challenger=challenger, cohorts=world.cohorts, limits=world.limits)
    offline = [] if holds_offline(ours, theirs, tolerance=world.tolerance) else ["offline comparison"]
    cohorts = ["forgetting" for change in found.cohorts if change.breach]
    by = [
        ["stability" for _ in (found.stability.breaches(limits.stability, k=ours.k) if found.stability else ())]
        for limits in (world.limits, world.wide)
    ]
    return [*offline, *cohorts, *by[0]], [*offline, *cohorts, *by[1]]


def run(data: Path | None = None, repetitions: int = 10, *, world: World | None = None, rows: int = ROWS) -> list[Row]:
    """`repetitions` clean increments and as many poisoned ones; ten are minutes on a core."""
    if world is None:
        if data is None or not (data / "u.data").is_file():
            raise UsageError(f"{data}: bench forgetting reads MovieLens 100k; name its folder with --data")
        world = champion_of(movielens(data.parent), base=BASE)
    rng = np.random.default_rng(SEED)
    clean, weak, poison, default = Count(), Count(), dict[str, Count](), (Count(), Count())
    tries = [(FULLY, 0.0), *((kind, share) for share in reversed(SHARES) for kind in KINDS)]
    for number in range(repetitions):
        batch = world.later.slice(number * rows % max(1, len(world.later) - rows + 1), rows)
        here, there = stopped_by(world, batch)
        clean.add(here)
        default[0].add(there)
        kind, share = tries[number % len(tries)]
        named = kind if kind == FULLY else f"{kind}, {share:.0%} of the champion's rows"
        bad = spoilt(batch, kind, round(share * len(world.past)), catalogue=world.catalogue, rng=rng)
        here, there = stopped_by(world, bad)
        poison.setdefault(named, Count()).add(here)
        default[1].add(there)
        if kind != FULLY:
            few = spoilt(batch, kind, round(share * len(batch)), catalogue=world.catalogue, rng=rng)
            weak.add(stopped_by(world, few)[0])
    caught, of = (sum(getattr(count, name) for count in poison.values()) for name in ("stopped", "of"))
    passed = clean.of - clean.stopped
    answer = [
        at_least(f"poisoned increments, stopped ({caught} of {of})", 100 * caught / of, 100.0),
        at_least(
            f"clean increments, passed ({passed} of {clean.of}; {clean.said} stopped)", 100 * passed / clean.of, 90.0
        ),
    ]
    answer += [_figure(f"stopped: {name} ({count.said})", count) for name, count in sorted(poison.items())]
    answer += [
        _figure(f"stopped with the default shift: {name} ({count.said})", count)
        for name, count in zip(("clean", "poisoned"), default, strict=True)
    ]
    if weak.of:
        answer.append(_figure(f"stopped: poison of 5–20 % of the increment's own rows ({weak.said})", weak))
    return answer


def _figure(name: str, count: Count) -> Row:
    return {"name": name, "measured": 100 * count.stopped / count.of, "unit": "%", "bar": "", "holds": None}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.forgetting", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MovieLens 100k")
    parser.add_argument("--repetitions", type=int, default=10, help="clean increments, and poisoned ones (default: 10)")
    chosen = parser.parse_args(arguments)
    found = run(chosen.data, chosen.repetitions)
    for row in found:
        verdict = {True: "holds", False: "FAILS", None: ""}[row["holds"]]
        print(f"{row['name']:<100} {row['measured']:>6.1f} {row['unit']} {row['bar']:>6}  {verdict}")
    return 1 if any(row["holds"] is False for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())

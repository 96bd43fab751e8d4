"""Does the gate decide rightly over the real API? `ratchet bench marketplace [--trials N] [--seed S] [--out FILE]`

Trials on the simulated marketplace (`simulation/`) of challengers whose true lift is known, half of them null: real
bundles, the real server in a process of its own, exposures and feedback through its logs, the landing folder and the
ingest flow into the lake, the trial flow's looks, the ledger, a person's approval, serving's swap and the way back.
Nothing is mocked. Before each trial the champion is the same.

Exact truth: the people are a panel that asks with the same history at each visit, and the marketplace stands still, so
a challenger's true lift over the trial's whole population is a sum, not a sample (`simulation/panel.py`). Nearly half
of what is shown is clicked, on pages of twenty: a trial then needs some thousand users, and forty fit into an hour.

With `--out` each finished trial is a JSON line of FILE, beside its home FILE.home. Run again, it goes on after them.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from bench.marketplace_challengers import DECLARED, NULL, NULL_WITHIN, TWIN, Roster, gather, planned, replace_challenger
from bench.marketplace_home import APPROVER, FATES, Plan, Shop, opened_shop
from bench.marketplace_trial import hold_trial, warm_up
from bench.rows import Row, at_least, at_most, figure
from gate.planning import Design

TRIALS = 40
ALPHA = 0.025
MOST_FALSE = 3
"""Of 20 nulls at α = .025: three or fewer in 99.9 % of such runs."""
HARMFUL = -0.03
POWER = 0.8
OFF = 4.5
"""Standard deviations: no arm's clicks lie further from what the truth expects (80 arms: 1 in 2,000 runs would)."""


def run(trials: int = TRIALS, seed: int = 0, out: Path | None = None, plan: Plan | None = None) -> list[Row]:
    """`trials`: fewer for a quick look. `out`: a file to go on with. `plan`: other sizes, for tests."""
    sizes = plan or Plan()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trials.jsonl" if out is None else out
        with opened_shop(file.with_suffix(".home"), plan=sizes, seed=seed) as shop:
            return hold_all(shop, trials, Journal(file), told=_say)


@dataclass(frozen=True)
class Journal:
    """The file that a killed run goes on with: a line when a trial begins and one when it is over. A line without its
    end was cut off, and counts for nothing."""

    file: Path

    def lines(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        whole = (line for line in self.file.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n")
        return [json.loads(line) for line in whole]

    def add(self, line: dict[str, Any]) -> None:
        with self.file.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # a killed run's last line may be a part of one
            file.write(json.dumps(line).encode() + b"\n")


def hold_all(shop: Shop, trials: int, journal: Journal, *, told: Callable[[str], None]) -> list[Row]:
    """Hold the trials that `journal` does not have yet; returns the rows of all."""
    wanted = planned(trials, effect=shop.plan.effect, seed=shop.seed)
    roster = gather(shop, wanted, told=told)
    lines = journal.lines()
    begun = [line for line in lines if "began" in line]
    done = {line["place"]: line for line in lines if "verdict" in line}
    shop.day = max([line["day"] for line in begun], default=shop.day)
    _tidy(shop, roster)
    if not begun:
        warm_up(shop)
    for each in wanted:
        if each.place in done:
            continue
        attempt = sum(line["began"] == each.place for line in begun)
        challenger = roster.challengers[each.place]
        if attempt:
            challenger = replace_challenger(shop, roster, each.place, attempt=attempt)
        shop.day += 1
        journal.add({"began": each.place, "day": shop.day})
        row = hold_trial(shop, roster, challenger, attempt=attempt)
        journal.add(row)
        done[each.place] = row
        told(_sentence(row, number=len(done), trials=trials))
    return rows(list(done.values()), plan=shop.plan) + _whole(shop)


def _tidy(shop: Shop, roster: Roster) -> None:
    """After a killed run: no trial open, the champion back in its place, what was logged taken in."""
    from flows.rollback import rollback

    now = shop.now() + timedelta(hours=12)
    for record in shop.ledger.trials():
        if record.is_open:
            shop.ledger.stop_trial(record.id, actor=APPROVER, reason="the run was cut off", now=now)
    champion = shop.ledger.champion()
    if champion is not None and champion.digest != roster.champion["digest"]:
        rollback(**shop.where, actor=APPROVER, reason="the run was cut off", now=now)
    shop.wait_for_champion(roster.champion["digest"])
    shop.ingest(now)


def rows(held: Sequence[dict[str, Any]], *, plan: Plan) -> list[Row]:
    """The benchmark's figures from the trials' lines."""
    promoted = [row for row in held if row["verdict"] == "PROMOTE"]
    nulls = [row for row in held if row["kind"] in (TWIN, NULL)]
    at_effect = [row for row in held if row["kind"] == DECLARED]
    falsely = [row for row in promoted if row in nulls]
    harmful = [row for row in held if row["true_lift"] <= HARMFUL]
    found = [row for row in promoted if row in at_effect]
    rest = [row for row in held if row not in nulls and row not in at_effect]
    result = [
        figure("trials held", len(held), "trials"),
        figure("promotions", len(promoted), "promotions"),
        at_most(f"false promotions among {len(nulls)} nulls", len(falsely), MOST_FALSE, "promotions"),
        at_most(
            f"promotions at true lift ≤ {HARMFUL:.0%}, of {len(harmful)}",
            sum(row in promoted for row in harmful),
            0,
            "promotions",
        ),
        *_power(len(found), len(at_effect), effect=plan.effect),
        *_promised([row for row in held if row["looks"] == plan.looks], plan=plan),
        figure(f"promotions of the {len(rest)} at other lifts", sum(row in promoted for row in rest), "promotions"),
        at_most(
            "largest true lift of a null, either way",
            100 * max(abs(row["true_lift"]) for row in nulls),
            100 * NULL_WITHIN,
        ),
        figure("standard error of a true lift, were the panel a sample", 100 * max(row["panel_error"] for row in held)),
        figure("people for whom a null that is no twin ranks as the champion", _alike(nulls)),
    ]
    if promoted:
        true, told = (statistics.mean(row[name] for row in promoted) for name in ("true_lift", "lift"))
        result += [
            figure("promoted ones' mean true lift", 100 * true, "%"),
            figure("promoted ones' mean estimated lift", 100 * told, "%"),
            figure("winner's curse: estimated minus true, of those promoted", 100 * (told - true), "points"),
        ]
    result += [
        figure("matured users, all trials", sum(row["users"] for row in held), "users"),
        *(
            figure(
                f"matured users to the answer, mean of {name}", statistics.mean(row["users"] for row in some), "users"
            )
            for name, some in (("all trials", held), ("nulls", nulls), ("those at the declared effect", at_effect))
            if some
        ),
    ]
    inside = [_inside(row["true_lift"], row["lift_interval"]) for row in held]
    off = [abs(each) for row in held for each in row["off"]]
    result += [
        figure("trials whose final interval holds the true lift", 100 * statistics.mean(inside), "%"),
        figure("standard error of the lift at the answer, mean", 100 * _mean(held, "relative_error"), "%"),
        figure("variance that the pre-period takes away, mean", 100 * _mean(held, "variance_reduction"), "%"),
        figure("smallest p of the sample-ratio test", min(row["srm_p"] for row in held), ""),
        at_most("clicks of an arm against the truth, furthest", max(off), OFF, "sd"),
        at_most("clicks of the arms against the truth, root mean square", _rms(off), _rms_bar(len(off)), "sd"),
        figure("estimates against the truth, root mean square", _rms([_z(row) for row in held]), "standard errors"),
        at_most("answers of another model or arm than the user's", sum(row["strangers"] for row in held), 0, "answers"),
        at_most("failed requests", sum(row["failed"] for row in held), 0, "requests"),
        at_most(
            "rows that were shown or reported and are not in the lake, or the other way",
            sum(abs(row["unlogged"]) for row in held),
            0,
            "rows",
        ),
        figure("requests for recommendations", sum(row["requests"] for row in held), "requests"),
        figure("impressions", sum(row["impressions"] for row in held), "rows"),
        figure("outcomes", sum(row["events"] for row in held), "rows"),
        figure("reports sent twice and counted once", sum(row["repeated"] for row in held), "rows"),
        figure("a trial, mean", _mean(held, "seconds"), "s"),
    ]
    if promoted:
        slowest = max(row["swap_seconds"] for row in promoted)
        result.append(figure("approval until serving serves the new champion, slowest", slowest, "s"))
    return result


def _whole(shop: Shop) -> list[Row]:
    """What must hold of the home in the end."""
    totals = shop.totals()
    difference = totals["delivered"] - sum(totals[name] for name in FATES if name != "delivered")
    return [
        figure("rows delivered", totals["delivered"], "rows"),
        at_most("delivered less accepted, quarantined, duplicate and late", abs(difference), 0, "rows"),
        at_most("problems of the ledger's chain", len(shop.ledger.verify()), 0, "problems"),
    ]


def _power(found: int, tried: int, *, effect: float) -> list[Row]:
    if not tried:
        return []
    interval = binomtest(found, tried).proportion_ci(0.95, method="exact")
    name = (
        f"power at {effect:+.0%}: {found} of {tried} promoted (95 % interval {interval.low:.0%} … {interval.high:.0%})"
    )
    return [at_least(name, 100 * found / tried, 100 * POWER)]


def _promised(whole: Sequence[dict[str, Any]], *, plan: Plan) -> list[Row]:
    """What planning says of these looks and the standard error that trials had at n_max."""
    errors = [row["relative_error"] for row in whole if row["relative_error"]]
    if not errors:
        return []
    design = Design(alpha=ALPHA, looks=plan.looks)
    return [figure("power that planning promises there", 100 * design.power_at(plan.effect / statistics.fmean(errors)))]


def _inside(lift: float, interval: Sequence[float | None] | None) -> bool:
    """An open end holds everything beyond it."""
    low, high = interval or (None, None)
    return (low is None or low <= lift) and (high is None or lift <= high)


def _z(row: dict[str, Any]) -> float:
    if row["lift"] is None or not row["relative_error"]:
        return 0.0
    return float((row["lift"] - row["true_lift"]) / row["relative_error"])


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(statistics.fmean(value * value for value in values))


def _rms_bar(count: int) -> float:
    """1 and three standard errors: the root mean square of `count` standard normals has 1/√(2·count)."""
    return round(1 + 3 / math.sqrt(2 * count), 2)


def _alike(nulls: Sequence[dict[str, Any]]) -> float:
    return 100.0 * statistics.fmean([row["same"] for row in nulls if row["kind"] == NULL] or [0.0])


def _mean(held: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.fmean(row[name] for row in held)


def _sentence(row: dict[str, Any], *, number: int, trials: int) -> str:
    lift = "not estimated" if row["lift"] is None else f"estimated {row['lift']:+.1%}"
    return (
        f"{number} of {trials}: {row['trial']} ({row['kind']}), true {row['true_lift']:+.2%}, {lift}: {row['verdict']} "
        f"at look {row['looks']}, {row['users']:,} users, {row['seconds']:.0f} s"
    )


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

"""What a look sees: a trial's numbers from the lake, and what is wrong with its data, in words.

Every relation of a look reads one version of each table. Missing or late data are a stated problem, never a zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gate.estimator import ArmSums
from gate.looks import LookSums, MetricSums
from gate.metrics import RETURN, SERVED, Metric, Value
from gate.served import Served
from gate.states import TrialMode
from gate.trial import CHAMPION, TrialConfig
from relations.credit import credit_counts, user_credits
from relations.errors import UsageError
from relations.served import Asked, served_digests, served_figures
from relations.slices import SliceRule, columns_of, slice_sums
from relations.sums import OutcomeRule, arm_day_sums, largest_outcomes, late_counts, of_rule, user_outcomes
from relations.trial_users import TrialWindow, bot_counts, exposed_counts
from stores.delivery import UNREADABLE, WHOLE
from stores.home import Home
from stores.lake import Lake
from stores.quarantine import open_deliveries

if TYPE_CHECKING:
    import ibis


@dataclass(frozen=True)
class Credit:
    """Users whose outcomes fell more on the challenger's picks, more on the champion's, or on both alike (or none)."""

    won: int = 0
    lost: int = 0
    tied: int = 0


def trial_sums(
    lake: Lake,
    config: TrialConfig,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    out: tuple[str, ...] = (),
    waiting: int = 0,
    canary: bool = False,
) -> LookSums:
    """The sums of every metric over the users matured at the watermark, by arm and day, and of every slice.

    `since`: when the comparison began; None: with the trial. `until`: the watermark is at most this. `out`: challengers
    that an earlier look has rejected. `waiting`: files that no ingest has taken yet, see `waiting_files`. `canary`: of
    the canary's users and their control group, and of nobody else.

    Problems: no exposures or events since then; events far behind the exposures; files that wait; a delivery of either
    that validation held back whole; answers of an arm by another bundle than its own.
    """
    tables = _Tables(lake)
    since = config.start if since is None else since
    watermark, problems = tables.complete_to(since, until=until, window=timedelta(hours=config.window_hours))
    window = _window(config, since=since, watermark=watermark, canary=canary)
    look = _summed(tables, config, window=window)
    digests = {CHAMPION: config.champion_digest, **{each.name: each.digest for each in config.challengers}}
    problems = (
        *problems,
        *_held_back(lake, since=since, waiting=waiting),
        *_strangers(tables.exposures, Asked(since, until, trial_id=config.trial_id), digests=digests),
    )
    return LookSums(watermark=watermark, since=since, out=out, problems=problems, **look)


def reign_sums(
    lake: Lake,
    config: TrialConfig,
    *,
    epoch: int,
    since: datetime,
    until: datetime | None = None,
    waiting: int = 0,
) -> LookSums:
    """The primary metric of all users whom the champion of `epoch` met since `since`, in no trial, as its one arm.

    With the config's window and pre-period; otherwise as `trial_sums`.
    """
    tables = _Tables(lake)
    watermark, problems = tables.complete_to(since, until=until, window=timedelta(hours=config.window_hours))
    window = _window(config, since=since, watermark=watermark, epoch=epoch)
    look = _summed(tables, config, window=window, only_primary=True)
    problems = (*problems, *_held_back(lake, since=since, waiting=waiting))
    return LookSums(watermark=watermark, since=since, problems=problems, **look)


def trial_served(
    lake: Lake, config: TrialConfig, *, since: datetime, stage: TrialMode, until: datetime | None = None
) -> dict[str, Served]:
    """How each arm's answers came in [since, until), bots left out, a request once.

    In the shadow the challengers' answers are those that nobody saw, and the champion's those shown meanwhile.
    """
    which = Asked(since, until, trial_id=config.trial_id)
    hidden = stage is TrialMode.SHADOW
    found = _served(lake.relation("exposures"), which)
    return {arm: served for (arm, is_shadow), served in found.items() if arm == CHAMPION or is_shadow is hidden}


def reign_served(lake: Lake, *, epoch: int, since: datetime, until: datetime | None = None) -> Served:
    """How the champion of `epoch` answered in [since, until), bots left out, a request once."""
    found = _served(lake.relation("exposures"), Asked(since, until, epoch=epoch))
    return found.get((CHAMPION, False), Served())


def trial_credit(lake: Lake, config: TrialConfig, *, since: datetime) -> dict[str, Credit]:
    """By challenger, whose picks users of interleaved lists chose, over the users matured since `since`.

    Raises UsageError where the primary metric's outcomes name no item: served, or a return.
    """
    if config.primary.outcome in (*SERVED, RETURN):
        raise UsageError(
            f"metric {config.primary.name}: {config.primary.outcome} names no item, so that interleaved lists tell "
            "nothing of it; leave the stage `interleave` out"
        )
    tables = _Tables(lake)
    watermark, _ = tables.complete_to(since, window=timedelta(hours=config.window_hours))
    credits = user_credits(
        tables.exposures,
        tables.events,
        window=_window(config, since=since, watermark=watermark),
        rule=outcome_rule(config.primary),
        champion=config.champion_digest,
        challengers=[each.digest for each in config.challengers],
    )
    found = {row["challenger"]: row for row in _rows(credit_counts(credits))}
    return {
        each.name: Credit(*(int(found[each.digest][name]) for name in ("won", "lost", "tied")))
        if each.digest in found
        else Credit()
        for each in config.challengers
    }


def waiting_files(home: Home) -> int:
    """Landing files of serving that no ingest has taken yet; open ones do not count."""
    return sum(
        1
        for kind in ("exposures", "feedback")
        for file in (home.landing / kind).iterdir()
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".part"
    )


class _Tables:
    """One version of each table for all relations of a look."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.exposures = lake.relation("exposures")
        self.events = lake.relation("events")

    def complete_to(
        self, since: datetime, *, window: timedelta, until: datetime | None = None
    ) -> tuple[datetime, tuple[str, ...]]:
        """(event time up to which exposures and events are both complete, what is missing)."""
        shown = _newest(self.exposures.shown_time)
        if shown is None or shown < since:
            return since, ("no exposures have been ingested since the comparison began",)
        told = _newest(self.events.event_time)
        if told is None or told < since:
            return since, ("no events have been ingested since the comparison began: outcomes are missing",)
        watermark = min(each for each in (shown, told, until) if each is not None)
        if shown - told <= window:
            return watermark, ()
        return watermark, (f"events reach to {_said(told)} only, exposures to {_said(shown)}: outcomes are missing",)


def _summed(
    tables: _Tables, config: TrialConfig, *, window: TrialWindow, only_primary: bool = False
) -> Mapping[str, Any]:
    """The part of LookSums that is counted. The users' rows are computed once, into a file that all sums then read."""
    metrics = (config.primary,) if only_primary else (config.primary, *config.guardrails)
    slices = () if only_primary else tuple(SliceRule(each.name, each.by, each.equals) for each in config.slices)
    exposures, events = tables.exposures, tables.events
    rules = [outcome_rule(metric) for metric in metrics]
    counted = _rows(exposed_counts(exposures, window.comparison))
    folder = tables.lake.root.parent / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="look-") as inside:
        file = Path(inside) / "users.parquet"
        outcomes = user_outcomes(exposures, events, window=window, rules=rules, also=columns_of(slices))
        outcomes.to_parquet(file)
        users = tables.lake.staged(file)
        sums = [MetricSums.from_rows(_rows(arm_day_sums(of_rule(users, place)))) for place in range(len(rules))]
        late = _rows(late_counts(users))
        largest = _rows(largest_outcomes(of_rule(users, 0))) if config.primary.value is Value.SUM else []
        states = tables.lake.relation("users")
        rows = _rows(slice_sums(of_rule(users, 0), states, rules=slices)) if slices else []
    found: dict[str, dict[str, ArmSums]] = {each.name: {} for each in slices}
    for row in rows:
        found[row["slice"]][row["arm"]] = ArmSums.from_mapping(row)
    return {
        "exposed": {row["arm"]: int(row["users"]) for row in counted},
        "metrics": {metric.name: each for metric, each in zip(metrics, sums, strict=True)},
        "slices": found,
        "crossed": sum(int(row["crossed"]) for row in counted),
        "bots": {row["arm"]: int(row["users"]) for row in _rows(bot_counts(exposures, window.comparison))},
        "late": {row["arm"]: int(row["late"]) for row in late},
        "dominance": {
            row["arm"]: round(row["largest"] / whole, 4) for row in largest if (whole := sums[0].arm(row["arm"]).s) > 0
        },
    }


def _window(
    config: TrialConfig, *, since: datetime, watermark: datetime, canary: bool = False, epoch: int | None = None
) -> TrialWindow:
    return TrialWindow(
        trial_id=config.trial_id if epoch is None else None,
        start=since,
        watermark=watermark,
        window=timedelta(hours=config.window_hours),
        before=timedelta(days=config.before_days),
        arms=config.arms if epoch is None else (CHAMPION,),
        canary=canary,
        epoch=epoch,
    )


def outcome_rule(metric: Metric) -> OutcomeRule:
    """The metric, as relations count it."""
    return OutcomeRule(
        metric.outcome,
        per=metric.per,
        summed=metric.value is Value.SUM,
        window=None if metric.window_hours is None else timedelta(hours=metric.window_hours),
        after=timedelta(hours=metric.after_hours),
        weights=metric.weights,
        cap=metric.cap,
    )


def _served(exposures: "ibis.Table", which: Asked) -> dict[tuple[str, bool], Served]:
    digests: dict[tuple[str, bool], list[str]] = {}
    for row in _rows(served_digests(exposures, which)):
        digests.setdefault((row["arm"], row["is_shadow"]), []).append(row["digest"])
    return {
        (row["arm"], row["is_shadow"]): Served(
            requests=int(row["requests"]),
            failures=int(row["failures"]),
            p50_ms=row["p50_ms"],
            p99_ms=row["p99_ms"],
            digests=tuple(digests.get((row["arm"], row["is_shadow"]), ())),
        )
        for row in _rows(served_figures(exposures, which))
    }


def _held_back(lake: Lake, *, since: datetime, waiting: int) -> tuple[str, ...]:
    """What was delivered since `since` and is in no table yet."""
    problems = []
    if waiting:
        problems.append(f"{waiting} files wait in the landing folder; ingest them first")
    receipts = lake.relation("deliveries").select(
        "delivery_id", "kind", "source", "received_time", "state", "delivered"
    )
    receipts = receipts.filter(receipts.kind.isin(["exposures", "events"])).order_by(["received_time", "delivery_id"])
    recent = [row for row in _rows(receipts) if row["received_time"] >= since]
    newest = {(row["kind"], row["source"]): row for row in recent}
    still = {each.delivery_id for each in open_deliveries(lake)} if any(row["state"] == WHOLE for row in recent) else ()
    for row in recent:
        what = f"delivery {row['delivery_id']} ({row['kind']} of {row['source']}, {row['delivered']:,} rows)"
        if row["state"] == WHOLE and row["delivery_id"] in still:
            problems.append(
                f"{what} was held back whole by validation; see `ratchet quarantine explain`, then replay it"
            )
        elif row["state"] == UNREADABLE and newest[row["kind"], row["source"]] is row:
            problems.append(f"{what} could not be read, and nothing has come from there since; deliver it again")
    return tuple(problems)


def _strangers(exposures: "ibis.Table", which: Asked, *, digests: Mapping[str, str]) -> Iterable[str]:
    """Answers that did not fail, and yet are of another bundle than their arm's."""
    for row in _rows(served_digests(exposures, which)):
        own = digests.get(row["arm"])
        if own is not None and not row["is_shadow"] and row["digest"] != own:
            yield (
                f"{row['requests']:,} answers of the arm {row['arm']} came from bundle {row['digest'][:12]}, "
                f"its own is {own[:12]}"
            )


def _newest(times: "ibis.Value") -> datetime | None:
    found: datetime | None = times.max().to_pyarrow().as_py()
    return found


def _rows(relation: "ibis.Table") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = relation.to_pyarrow().to_pylist()
    return found


def _said(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"

"""One step of online learning: what arrived since the last one, learnt from and published as a delta of the champion.

Under a person's standing approval alone. What a step cannot stand behind ends the approval, and with it the serving of
deltas: back to the last full bundle.

Shapes: N events of the store, U its users.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from prefect import task
from prefect.cache_policies import NO_CACHE

from model.continual.online import OnlineStep, Prequential, begin, online_step, weights_of
from model.continual.stability import measure_stability
from model.evaluation import RankerRecommender
from model.export import parity_rows
from model.fitted import Fitted, load_fitted, save_fitted
from model.metrics.intervals import difference_interval
from model.parity import measure_parity
from model.sequences import Histories, split_by_time
from relations.errors import DataRejected, DependencyFailed, GateRefused, TrainingUnderWay, UsageError
from stores.bundle import open_bundle
from stores.deltas import Weights, delta_facts, find_change, patch, write_delta
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import GATE
from stores.registry import Registry
from stores.replay import replay
from stores.settings import Settings
from stores.signatures import sign
from stores.spool import Spool, SpooledRun
from stores.standing_records import DeltaLimits, StandingRecord
from tasks.allowed import Consented, consented
from tasks.describing_users import with_user_attributes
from tasks.jobs import write_json
from tasks.options import online_of, options_of
from tasks.replaying import seen_by
from tasks.training import load_version

STATE = "state.json"
Row = tuple[int, float, float]
"""Of a test: a number for its user within the step, NDCG of the model, NDCG of the base."""


@dataclass(frozen=True)
class OnlineReport:
    """What a step did: `recorded` a delta, `nothing_new`, `nothing_learnt` (no event was a known item's), `not_allowed`
    (no standing approval), or `stopped`: a guardrail ended the approval, for `reason`."""

    state: str
    reason: str = ""
    sequence: int = 0
    digest: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _State:
    """What the next step goes on from: events up to this version, and the newest delta; `rows` for the guardrail."""

    events_version: int
    sequence: int = 0
    digest: str = ""
    rows: list[Row] = field(default_factory=list)


def allow_online(
    home: Home,
    settings: Settings,
    *,
    actor: str,
    reason: str,
    now: datetime,
    hours: float | None = None,
    deltas: int | None = None,
    rows: int | None = None,
) -> StandingRecord:
    """A person's standing approval of deltas on the present champion, by the present settings; None: theirs too."""
    stated = settings.online
    return Ledger.of(home, settings).allow_deltas(
        recipe=recipe_of(settings),
        limits=DeltaLimits(deltas or stated.deltas, rows or stated.rows, stated.relative_change, stated.overlap),
        expires=now + timedelta(hours=hours or stated.hours),
        actor=actor,
        reason=reason,
        now=now,
    )


def recipe_of(settings: Settings) -> str:
    """SHA-256 of whatever decides what a step makes of its events."""
    stated = {
        "online": {key: str(value) for key, value in asdict(online_of(settings)).items()},
        "replay_users": settings.online.replay_users,
        "train": {name: getattr(settings.train, name) for name in ("seed", "loss", "clip_norm", "precision")},
    }
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


@task(name="online step", cache_policy=NO_CACHE)
def take_online_step(home: Home, settings: Settings, *, now: datetime) -> OnlineReport:
    """Learn from what arrived, judge it, and let it serve; or say why not.

    A killed step is taken again, and a step on the same events ends in the same digest. Raises UsageError for settings
    that the approval is not for, TrainingUnderWay while another step runs.
    """
    try:
        with FileLock(home.run / "online.lock", timeout=0):
            return _step(home, settings, now=now)
    except Timeout as error:
        raise TrainingUnderWay(f"{home.root}: an online step is under way; this one would follow on it") from error


def _step(home: Home, settings: Settings, *, now: datetime) -> OnlineReport:
    ledger = Ledger.of(home, settings)
    standing = ledger.standing(now=now)
    if standing is None:
        return OnlineReport("not_allowed", _why_not(ledger, now))
    if standing.recipe != recipe_of(settings):
        raise UsageError(
            f"standing approval {standing.number} is for other settings of [online] or [train]; restore them, or "
            "`ratchet online stop` and `ratchet online allow` these"
        )
    folder = home.checkpoints / f"online-{standing.number}"
    place, state = _newest(folder)
    record = ledger.version(standing.version)
    base = load_version(home, settings, standing.version)
    if state.digest and all(state.digest != delta.digest for delta in standing.deltas):
        _record(home, ledger, state.digest, now=now)  # a kill came between
    found = consented(home, settings)
    sequences = found.sequences
    seen_N = seen_by(record).among(sequences)
    past_N = seen_N if place is None else sequences.arrived_N <= state.events_version
    new_N = found.allowed_N & ~past_N
    if not new_N.any():
        return OnlineReport(
            "nothing_new", f"no events since version {sequences.absorbed}", state.sequence, state.digest
        )
    lake = Lake.of(home, settings.lake)
    frozen_N, context_N = (
        _frozen(found, seen_N, users=settings.online.probe_users),
        _context(found, new_N, past_N, users=settings.online.replay_users),
    )
    new, past, frozen = (
        with_user_attributes(lake, sequences.histories(which_N), names=settings.features.user)
        for which_N in (new_N, context_N, frozen_N)
    )
    parent = begin(base) if place is None else load_fitted(place)
    try:
        step = online_step(
            parent,
            base=base,
            new=new,
            past=past,
            options=online_of(settings),
            training=options_of(settings)[1],
            k=settings.evaluation.k,
            test_users=settings.online.test_users,
        )
        rows = [*state.rows, *_rows(step.prequential, state.rows)][-settings.online.test_rows :]
        after = _State(sequences.absorbed, state.sequence, state.digest, rows)
        figures = _judge(settings, step, base, rows, frozen)
        if not step.targets:
            _keep(folder, step.fitted, after, most=settings.online.keep)
            return OnlineReport("nothing_learnt", "no new event was a target on a known item", state.sequence)
        digest, measured = _publish(home, settings, step.fitted, base, standing, state.sequence + 1, past)
        after = _State(sequences.absorbed, state.sequence + 1, digest, rows)
        _keep(folder, step.fitted, after, most=settings.online.keep)
        standing = _record(home, ledger, digest, now=now)
    except (GateRefused, UsageError, DataRejected) as refused:
        ledger.withdraw_deltas(actor=GATE, reason=str(refused), now=now)
        return OnlineReport("stopped", str(refused), state.sequence, state.digest)
    _forget_old(home, standing, most=settings.online.keep)
    figures |= measured | {"events": float(len(new)), "targets": float(step.targets), "seconds": step.seconds}
    _track(home, settings, folder, standing, after.sequence, figures)
    return OnlineReport("recorded", "", after.sequence, digest, figures)


def _judge(settings: Settings, step: OnlineStep, base: Fitted, rows: list[Row], frozen: Histories) -> dict[str, float]:
    """The guardrails on what was learnt; raises GateRefused for a breach. A loss that is not finite has raised."""
    stated, figures = settings.online, {"log_loss": step.log_loss} if step.targets else {}
    k = settings.evaluation.k
    if rows:
        user_R, ours_R, base_R = (np.array(column) for column in zip(*rows, strict=True))
        found = difference_interval(ours_R, base_R, user_R=user_R)
        figures |= {
            f"ndcg@{k}": float(ours_R.mean()),
            f"base/ndcg@{k}": float(base_R.mean()),
            "difference/low": found.low,
            "difference/high": found.high,
        }
        if len(step.prequential):
            figures |= {
                f"step/ndcg@{k}": float(step.prequential.ndcg_R.mean()),
                f"step/hr@{k}": float(step.prequential.hit_R.mean()),
                f"step/base/ndcg@{k}": float(step.prequential.base_ndcg_R.mean()),
            }
        if found.users > 1 and found.high < -stated.margin * float(base_R.mean()):
            raise GateRefused(
                f"ndcg@{k} {ours_R.mean():.4f} on {len(rows)} newest events, the base's is {base_R.mean():.4f}: the "
                f"difference is at most {found.high:+.4f}, below [online] margin = {stated.margin:g}"
            )
    if len(frozen):
        holdout = split_by_time(frozen, cutoff_us=int(frozen.time_N.min())).holdout
        if len(holdout):
            champion, challenger = (RankerRecommender.of(fitted) for fitted in (base, step.fitted))
            overlap = measure_stability(champion=champion, challenger=challenger, holdout=holdout).overlap
            figures["overlap"] = overlap
            if overlap < stated.overlap:
                raise GateRefused(
                    f"top-10 overlap with the base {overlap:.3f}, below [online] overlap = {stated.overlap:g}"
                )
    return figures


def _publish(
    home: Home,
    settings: Settings,
    fitted: Fitted,
    base: Fitted,
    standing: StandingRecord,
    sequence: int,
    seen: Histories,
) -> tuple[str, dict[str, float]]:
    """The delta's bundle, once ONNX Runtime with it answers as torch does; its digest, and what was measured."""
    bundle = open_bundle(home.releases, standing.base_digest)
    before, after = (Weights(weights.rows, weights.body) for weights in map(weights_of, (base, fitted)))
    change = find_change(bundle, before=before, after=after)
    patched = patch(bundle, change)
    if patched.beside:
        raise GateRefused(
            "the base keeps its weights beside its graph (above 1.5 GB); online steps cannot prove parity there"
        )
    parity = measure_parity(
        fitted.ranker,
        patched.graph,
        sequences=parity_rows(fitted, seen),
        max_abs=settings.release.parity_max_abs,
        top10=settings.release.parity_top10,
    )
    if not parity.holds:
        raise GateRefused(
            f"ONNX Runtime does not reproduce torch: top-10 agreement {parity.top10_agreement:.4f}, largest difference "
            f"{parity.max_abs_diff:.2g}"
        )
    written = write_delta(
        change,
        bundle,
        releases=home.releases,
        sequence=sequence,
        recipe=standing.recipe,
        attestation={"parity": asdict(parity)},
    )
    if settings.release.signing_key:
        sign(written, Path(settings.release.signing_key))
    facts = delta_facts(written)
    return written.digest, {
        "rows": float(facts.rows),
        "bytes": float(facts.bytes),
        "relative_change": facts.relative_change,
        "parity/max_abs_diff": parity.max_abs_diff,
        "parity/top10_agreement": parity.top10_agreement,
    }


def _record(home: Home, ledger: Ledger, digest: str, *, now: datetime) -> StandingRecord:
    return ledger.record_delta(delta_facts(open_bundle(home.releases, digest)), now=now)


def _context(found: Consented, new_N: np.ndarray, past_N: np.ndarray, *, users: int) -> np.ndarray:
    """Former events of the users of whom there is news, and of `users` others, drawn by what is new."""
    sequences = found.sequences
    known_N = found.allowed_N & past_N
    has_U = sequences.count_U(new_N) > 0
    other_U = np.flatnonzero(~has_U & (sequences.count_U(known_N) > 0))
    rng = np.random.default_rng([int(sequences.absorbed), int(new_N.sum())])
    has_U[rng.permutation(other_U)[:users]] = True
    return np.asarray(known_N & sequences.of_users(has_U))


def _frozen(found: Consented, seen_N: np.ndarray, *, users: int) -> np.ndarray:
    """The probe: some users, as the base knew them, the same at every step."""
    known_N = seen_N & (found.allowed_N | found.panel_N)
    which_U = found.sequences.count_U(known_N) > 1
    drawn_U = np.random.default_rng(0).permutation(np.flatnonzero(which_U))[:users]
    which_U[:] = False
    which_U[drawn_U] = True
    return np.asarray(known_N & found.sequences.of_users(which_U))


def _rows(tested: Prequential, before: list[Row]) -> list[Row]:
    """Users are told apart within a step alone, so that nothing of them is kept."""
    first = 1 + max((user for user, _, _ in before), default=-1)
    _, user_R = np.unique(tested.user_R, return_inverse=True)
    columns = ((first + user_R).tolist(), tested.ndcg_R.tolist(), tested.base_ndcg_R.tolist())
    return list(zip(*columns, strict=True))


def _newest(folder: Path) -> tuple[Path | None, _State]:
    """The newest whole state, where there is one."""
    places = sorted(folder.glob(f"state-*/{STATE}"), key=lambda file: int(file.parent.name.partition("-")[2]))
    if not places:
        return None, _State(-1)
    stated = json.loads(places[-1].read_text(encoding="utf-8"))
    stated["rows"] = [(int(user), ours, theirs) for user, ours, theirs in stated["rows"]]
    return places[-1].parent, _State(**stated)


def _keep(folder: Path, fitted: Fitted, state: _State, *, most: int) -> None:
    place = folder / f"state-{state.events_version}"
    save_fitted(fitted, place)
    write_json(place / STATE, asdict(state))
    for old in sorted(folder.glob("state-*"), key=lambda each: int(each.name.partition("-")[2]))[:-most]:
        shutil.rmtree(old)


def _forget_old(home: Home, standing: StandingRecord, *, most: int) -> None:
    """Each delta holds all that the ones before it do."""
    for delta in standing.deltas[:-most]:
        shutil.rmtree(home.releases / delta.digest, ignore_errors=True)


def _track(
    home: Home, settings: Settings, folder: Path, standing: StandingRecord, sequence: int, figures: dict[str, float]
) -> None:
    """One run in MLflow a standing approval; a point a delta. What it does not hear now, a later run tells it."""
    run = SpooledRun(
        f"online-{standing.number}",
        name=f"online on v{standing.version}",
        tags={"mode": "online", "base": standing.base_digest, "recipe": standing.recipe},
        params={f"online.{key}": value for key, value in settings.online.model_dump().items()},
    )
    with Spool(folder, run) as spool:
        for name, value in figures.items():
            spool.add(f"online/{name}", step=sequence, value=value)
    try:
        replay(folder, home=home, registry=Registry(home, settings))
    except DependencyFailed as error:
        logging.getLogger(__name__).warning("delta %d is not in MLflow yet: %s", sequence, error)


def _why_not(ledger: Ledger, now: datetime) -> str:
    remedy = "`ratchet online allow --as NAME --reason TEXT`"
    last = next(reversed(ledger.standings()), None)
    if ledger.champion() is None:
        return "there is no champion to learn on from; train one, and bootstrap it"
    if last is None:
        return f"nobody has allowed online steps; {remedy}"
    if last.ended is not None:
        return f"standing approval {last.number} ended: {last.ended_reason}; {remedy}"
    return f"standing approval {last.number} expired at {last.expires.isoformat()}; {remedy}"

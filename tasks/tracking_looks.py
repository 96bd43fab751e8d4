"""What MLflow is told of a trial's looks: online figures on each challenger's model, the page, and why it stands so."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from gate.stopping import Corrected
from relations.errors import DependencyFailed, RatchetError
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import TrialRecord
from stores.mlflow_client import tracking_uri
from stores.registry import Registry
from stores.settings import Settings
from tasks.correcting import corrected_effect
from tasks.deciding import mirror_decision
from tasks.spooling import within
from tasks.trial_page.reading import (
    COMPARE,
    Evidence,
    comparison,
    ends,
    figure,
    mapping,
    needed_lift,
    rows,
    stage_of,
    text,
)

PLAIN = ("z", "boundary", "champion_rate", "challenger_rate", "information", "srm_p", "srm_p_matured", "bots_p")
SERVED = ("requests", "failures", "p50_ms", "p99_ms")
CREDIT = ("wins", "losses", "win_rate", "e_win", "e_loss")


@task(name="track look", cache_policy=NO_CACHE)
def track_look(home: Home, settings: Settings, evidence: Mapping[str, Any]) -> None:
    """The trial's looks so far on each challenger's logged model and run, the page that `evidence` names as `report`,
    and the ledger's tags and descriptions. MLflow failing is reported, and stops nothing: the next look tells it."""
    uri = tracking_uri(home, settings)
    seconds = settings.tracking.wait_seconds if uri.startswith(("http:", "https:")) else None
    try:
        record = Ledger.of(home, settings).trial(str(evidence["trial_id"]))
        within(lambda: _tell(home, settings, record, report=text(evidence, "report")), seconds=seconds)
        _, warning = within(lambda: mirror_decision(home, settings), seconds=seconds)
    except (RatchetError, OSError) as error:
        warning = str(error)
    if warning:
        look = text(evidence, "look") or "?"
        logging.getLogger(__name__).warning("%s look %s is not in MLflow yet: %s", evidence["trial_id"], look, warning)


def look_metrics(evidence: Evidence, challenger: str, *, k: int) -> dict[str, float | None]:
    """The figures of one look at one challenger; those of a stage before the comparison begin with its name.

    Slices with fewer than `k` users in an arm are left out, as on the page. None: not known.
    """
    stage = stage_of(evidence)
    served = mapping(evidence, "served", challenger)
    answers = {f"{stage}/{name}": figure(served, name) for name in SERVED}
    if stage != COMPARE:
        credit = mapping(evidence, "credit", challenger)
        return {f"{stage}/{name}": figure(credit, name) for name in CREDIT} | answers
    part = comparison(evidence, challenger)
    found = {"lift": figure(part, "lift")}
    for name, low, high in (("lift_interval", "lift_low", "lift_high"), ("lift_sequence", "always_low", "always_high")):
        both = ends(part, name)
        found |= {low: both[0] if both else None, high: both[1] if both else None}
    found |= {name: figure(part, name) for name in PLAIN}
    found |= {"needed_lift": needed_lift(part), "alpha_spent": figure(part, "spent")}
    for name, total in (("matured", "matured_users"), ("exposed", "exposed_users")):
        counts = ends(part, name)
        found[total] = sum(counts) if counts else None
    for rail in rows(part, "guardrails"):
        found |= _tested(f"guardrails/{text(rail, 'name')}", rail)
    for row in rows(part, "slices"):
        users = ends(row, "users")
        if users is not None and min(users) >= k:
            found |= _tested(f"slices/{text(row, 'name')}", row)
    return found | answers


def _tested(name: str, row: Evidence) -> dict[str, float | None]:
    return {f"{name}/z": figure(row, "z"), f"{name}/holds": figure(row, "holds")}


def _corrected(effect: Corrected) -> dict[str, float | None]:
    """Of the look that stopped the comparison."""
    span = effect.lift_interval
    ends = {"corrected/low": span.lower, "corrected/high": span.upper} if span else {}
    return {"corrected/lift": effect.lift, "corrected/p": effect.p_value, **ends}


def _tell(home: Home, settings: Settings, record: TrialRecord, *, report: str) -> None:
    registry = Registry(home, settings)
    for challenger in record.challengers:
        version = registry.version_of(challenger.digest)
        if version is None:
            raise DependencyFailed(f"MLflow does not know version {challenger.version} yet")
        effect = corrected_effect(record, challenger.name)
        stop, corrected = (effect.look, _corrected(effect)) if effect else (0, {})
        looks = [
            (
                round(figure(each.evidence, "look") or each.number),
                look_metrics(each.evidence, challenger.name, k=settings.privacy.k)
                | (corrected if each.number == stop else {}),
            )
            for each in record.evidence
        ]
        pages = {f"look-{record.looks:03d}.html": Path(report)} if report else {}
        registry.log_trial(version, record.id, looks=looks, pages=pages)

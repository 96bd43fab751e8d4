"""What MLflow shows is made equal to what the ledger says: aliases, and the `gate.*` tags of every version.

Safe to repeat and to interrupt: it compares, and changes only what differs. An alias that somebody moved by hand is
put back; serving never looks at it.
"""

from collections.abc import Mapping

from stores.champion import PROMOTING_STEPS
from stores.failpoints import reach
from stores.ledger import Ledger
from stores.ledger_records import OPEN_STATES, Reign, TrialRecord, VersionRecord
from stores.registry import Registered, Registry

CHAMPION = "champion"
CHALLENGER = "challenger"
GATE = "gate."
APPROVED_BY = "approved_by"


def reconcile(ledger: Ledger, registry: Registry) -> list[str]:
    """Repair the registry and return what was repaired, or cannot be; empty when both agreed.

    Raises DependencyFailed when MLflow does not answer; the next call goes on from there.
    """
    trials, history, known = ledger.trials(), ledger.history(), ledger.versions()
    registered = registry.versions()
    numbered = {found.version: found for found in registered}
    # By digest: a version that was released while MLflow was away may have another number there.
    by_digest = {found.digest: found for found in reversed(registered)}
    report, faithful = [], {}
    for record in known:
        found = by_digest.get(record.digest)
        if found is None:
            other = numbered.get(record.version)
            has = "has no such version" if other is None else f"has another bundle, {other.digest[:12] or 'untagged'}"
            report.append(f"version {record.version}: MLflow {has}; the ledger's digest is {record.digest[:12]}…")
            continue
        faithful[record.version] = found.version
        report += _mirror_tags(registry, found, gate_tags(record, trials=trials, history=history))
    reach("mirror.tags")
    return report + _mirror_aliases(registry, _aliases(trials, history), faithful=faithful)


def gate_tags(record: VersionRecord, *, trials: tuple[TrialRecord, ...], history: tuple[Reign, ...]) -> dict[str, str]:
    """What the gate has to say of a version: its newest trial, and who made it champion."""
    tags = {f"{GATE}state": "OFFLINE_OK" if record.offline_passed else "OFFLINE_WORSE"}
    trial = next((trial for trial in reversed(trials) if trial.challenger == record.version), None)
    approval = next(
        (reign for reign in reversed(history) if reign.version == record.version and reign.how in PROMOTING_STEPS), None
    )
    if approval is not None:
        tags |= {APPROVED_BY: approval.actor, f"{GATE}state": "PROMOTED" if approval.trial else "BOOTSTRAP"}
    if trial is not None:
        tags |= {f"{GATE}state": trial.state.value, f"{GATE}trial": trial.id}
        if trial.evidence:
            latest = trial.evidence[-1]
            lift, interval = latest.evidence.get("lift"), latest.evidence.get("lift_interval")
            tags[f"{GATE}evidence"] = latest.sha256
            tags[f"{GATE}decision"] = latest.decision
            tags[f"{GATE}lift"] = "" if lift is None else f"{lift:+.4f}"
            if interval and None not in interval:
                tags[f"{GATE}interval"] = f"[{interval[0]:+.4f}, {interval[1]:+.4f}]"
    return {name: value for name, value in tags.items() if value}


def _aliases(trials: tuple[TrialRecord, ...], history: tuple[Reign, ...]) -> dict[str, int | None]:
    challenger = next((trial.challenger for trial in reversed(trials) if trial.state in OPEN_STATES), None)
    return {CHAMPION: history[-1].version if history else None, CHALLENGER: challenger}


def _mirror_tags(registry: Registry, found: Registered, wanted: Mapping[str, str]) -> list[str]:
    ours = {name: text for name, text in found.tags.items() if name.startswith(GATE) or name == APPROVED_BY}
    changed = {name: text for name, text in wanted.items() if ours.get(name) != text}
    surplus = sorted(ours.keys() - wanted.keys())
    registry.set_tags(found.version, changed)
    registry.remove_tags(found.version, surplus)
    told = [f"{name} = {text}" for name, text in changed.items()] + [f"{name} removed" for name in surplus]
    return [f"version {found.version}: {each}" for each in told]


def _mirror_aliases(registry: Registry, wanted: Mapping[str, int | None], *, faithful: Mapping[int, int]) -> list[str]:
    """`faithful`: the ledger's number of a version → MLflow's."""
    report = []
    present = registry.aliases()
    for name, version in wanted.items():
        shown = None if version is None else faithful.get(version)  # an alias on another bundle would be a lie
        if present.get(name) != shown:
            registry.set_alias(name, shown)
            report.append(f"alias {name}: {_named(present.get(name))} → {_named(shown)}")
    return report


def _named(version: int | None) -> str:
    return "none" if version is None else f"version {version}"

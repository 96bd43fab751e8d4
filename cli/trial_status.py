"""Where a trial stands, and what it waits for, in words and as JSON."""

import json
from datetime import datetime, timedelta
from typing import Any

from gate.states import TrialState
from stores.home import Home
from stores.ledger_records import TrialRecord
from stores.settings import Settings


def trial_summary(home: Home, settings: Settings, record: TrialRecord) -> dict[str, Any]:
    """A trial as `status --json` gives it. `waits_for`: what happens next, and by whom; empty for one that is over."""
    evidence = record.evidence[-1].evidence if record.evidence else {}
    waits, since = _waits(home, settings, record)
    return {
        "id": record.id,
        "state": str(record.state),
        "mode": str(record.mode),
        "stage": {"mode": str(record.mode), "share": _share(record), "since": _stage_since(record).isoformat()},
        "challenger": record.challenger,
        "challengers": [
            {"name": each.name, "version": each.version, "out": each.name in record.out} for each in record.challengers
        ],
        "champion": record.champion,
        "aa": record.is_aa,
        "decision": record.decision,
        "lift": evidence.get("lift"),
        "interval": evidence.get("lift_interval"),
        "reasons": list(evidence.get("reasons", ())),
        "looks": record.looks,
        "matured_users": sum(evidence.get("matured", (0, 0))),
        "waits_for": waits,
        "waits_since": None if since is None else since.isoformat(),
    }


def trial_lines(trial: dict[str, Any], *, detailed: bool = False) -> list[str]:
    """One line for a trial, and one for what it waits for; `detailed`: the newest look's reasons as well."""
    lift = "" if trial["lift"] is None else f" lift {trial['lift']:+.1%}"
    interval = trial["interval"]
    if interval and None not in interval:
        lift += f" [{interval[0]:+.1%}, {interval[1]:+.1%}]"
    share = trial["stage"]["share"]
    at = "" if trial["mode"] == "compare" else f" ({trial['mode']}{f', {share:.4g} of users' if share else ''})"
    against = " and ".join(f"v{each['version']}{' (out)' if each['out'] else ''}" for each in trial["challengers"])
    who = f"A/A, v{trial['champion']} against itself" if trial["aa"] else f"{against} against v{trial['champion']}"
    found = [
        f"{trial['id']}: {trial['state']}{at} · {who} · {trial['looks']} looks, "
        f"{trial['matured_users']:,} matured users{lift}"
    ]
    if detailed:
        found += [f"  {trial['decision']}: {reason}" for reason in trial["reasons"]]
    if trial["waits_for"]:
        since = f" (since {_minute(trial['waits_since'])})" if trial["waits_since"] else ""
        found.append(f"  waits for {trial['waits_for']}{since}")
    return found


def _waits(home: Home, settings: Settings, record: TrialRecord) -> tuple[str, datetime | None]:
    if record.is_watched:
        return _watched(home, record), record.changed
    if not record.is_open:
        return "", None
    if record.killed:
        return f"its end, after a kill: ratchet trial stop {record.id} --as NAME --reason TEXT", record.killed.since
    if record.state is TrialState.AWAIT_APPROVAL and record.awaiting_since is not None:
        until = record.awaiting_since + timedelta(hours=settings.ledger.approval_hours)
        return (
            f"a person until {_minute(until.isoformat())}: ratchet approve {record.id} --as NAME --reason TEXT",
            record.awaiting_since,
        )
    newest = record.evidence[-1] if record.evidence else None
    if newest is None or newest.evidence.get("stage", "compare") != record.mode:
        return f"the first look at its {record.mode} stage", _stage_since(record)
    return "; ".join(newest.evidence.get("reasons", ())[:2]), _stage_since(record)


def _watched(home: Home, record: TrialRecord) -> str:
    if record.bakes_until is None:
        return f"serving to serve v{record.proposed.version}: ratchet trial bake {record.id}"
    until = f"the end of its bake, {_minute(record.bakes_until.isoformat())} at the earliest"
    try:
        told = json.loads((home.trials / record.id / "bake.json").read_text(encoding="utf-8"))
        return f"{until}; {told['reasons'][0]}"
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return until  # no look yet


def _stage_since(record: TrialRecord) -> datetime:
    return record.stages[-1].since if record.stages else record.opened


def _share(record: TrialRecord) -> float:
    return record.stages[-1].allocation if record.stages else record.allocation


def _minute(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M} UTC"

"""Two versions side by side: where they come from, how they were measured, what their bundles hold, who met them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from relations.errors import RatchetError
from serving.console.pages.links import Links
from serving.console.place import Place
from stores.bundle import Bundle, open_bundle
from stores.ledger_records import Reign, TrialRecord, VersionRecord
from tasks.trial_page.reading import Evidence, comparison, ends, figure, mapping, matured, rows, text
from tasks.trial_page.wording import UNKNOWN, count, interval, number, percent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HELD_OUT = "held-out rows"


@dataclass(frozen=True)
class Row:
    """One thing of both. `change`: from the first to the second; empty where that means nothing."""

    name: str
    a: str
    b: str
    change: str = ""


@dataclass(frozen=True)
class Group:
    """`note`: what to know before believing it. `changes`: whether the last column says anything."""

    ident: str
    title: str
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def changes(self) -> bool:
        return any(row.change for row in self.rows)


@dataclass(frozen=True)
class Met:
    """What users showed of a version in one trial."""

    trial: TrialRecord
    arm: str
    verdict: str
    lift: str
    interval: str
    users: str


@dataclass(frozen=True)
class Side:
    """`bundle` is None where it is missing or damaged, and `damage` says how."""

    record: VersionRecord
    bundle: Bundle | None
    damage: str
    items: frozenset[str] | None
    met: tuple[Met, ...]
    reigns: tuple[Reign, ...]
    run: str
    registered: str

    @property
    def attested(self) -> Evidence:
        return {} if self.bundle is None else self.bundle.attestation


def compare_view(place: Place, *, a: int | None, b: int | None) -> dict[str, Any]:
    """Without versions: the champion, and the candidate or else the newest. Raises UsageError for an unknown one."""
    ledger = place.ledger
    versions, champion, candidate = ledger.versions(), ledger.champion(), ledger.candidate()
    known = [record.version for record in versions]
    shown: dict[str, Any] = {
        "versions": versions[::-1],
        "champion": None if champion is None else champion.version,
        "candidate": None if candidate is None else candidate.version,
        "a": None,
        "b": None,
        "groups": (),
    }
    if not known:
        return shown
    first = a if a is not None else champion.version if champion else known[0]
    second = b if b is not None else candidate.version if candidate else known[-1]
    links, trials, history = Links.of(place), ledger.trials(), ledger.history()
    sides = [
        _side(place, ledger.version(version), links=links, trials=trials, history=history)
        for version in (first, second)
    ]
    left, right = sides
    groups = (_lineage(left, right), _offline(left, right), _beside(left, right), _release(left, right))
    return shown | {"a": left, "b": right, "groups": tuple(group for group in groups if group.rows)}


def _side(
    place: Place, record: VersionRecord, *, links: Links, trials: Sequence[TrialRecord], history: Sequence[Reign]
) -> Side:
    bundle, damage, items = None, "", None
    try:
        bundle = open_bundle(place.home.releases, record.digest)
        items = frozenset(_items(bundle))
    except RatchetError as error:
        damage = str(error)
    return Side(
        record=record,
        bundle=bundle,
        damage=damage,
        items=items,
        met=tuple(met for trial in trials if (met := _met(record, trial)) is not None),
        reigns=tuple(reign for reign in history if reign.version == record.version),
        run=links.run(record.run_id),
        registered=links.version(record.version),
    )


def _lineage(a: Side, b: Side) -> Group:
    def row(name: str, said: Callable[[VersionRecord], str], change: str = "") -> Row:
        return Row(name, said(a.record), said(b.record), change)

    def parent(record: VersionRecord) -> str:
        return "none" if record.parent is None else f"v{record.parent}"

    later = timedelta(microseconds=b.record.cutoff_us - a.record.cutoff_us)
    return Group(
        "lineage",
        "Where they come from",
        (
            row("trained by", lambda each: each.mode),
            row("weights from", parent),
            row("events table", lambda each: f"version {each.events_version}"),
            row("items table", lambda each: f"version {each.items_version}"),
            row("events before", _cutoff, f"{later / timedelta(days=1):+.1f} days" if later else "the same"),
            row("registered", lambda each: f"{each.created:%Y-%m-%d %H:%M} UTC"),
            row("submitted by", lambda each: each.submitter or UNKNOWN),
            row("offline check", lambda each: "✓ passed" if each.offline_passed else "✗ not passed"),
            row("note", lambda each: each.note or UNKNOWN),
        ),
    )


def _offline(a: Side, b: Side) -> Group:
    """Each as measured on the rows held out of its own training."""
    left, right = _figures(a.record, "challenger"), _figures(b.record, "challenger")
    found = []
    for name in dict.fromkeys([*left, *right]):
        one, other = left.get(name), right.get(name)
        change = "" if one is None or other is None or name == HELD_OUT else f"{other - one:+.4f}"
        shown = count if name == HELD_OUT else _plain
        found.append(Row(name, shown(one), shown(other), change))
    return Group(
        "offline",
        "Offline metrics",
        tuple(found),
        "Each was measured on the rows held out of its own training: unless these are the same rows, a difference "
        "says more about the rows than about the versions.",
    )


def _beside(a: Side, b: Side) -> Group:
    """Each less the champion of its time, on the same rows: the fairer look."""
    ahead = [_ahead(side.record) for side in (a, b)]
    names = dict.fromkeys([*ahead[0], *ahead[1]])
    found = (Row(name, _signed(ahead[0].get(name)), _signed(ahead[1].get(name))) for name in names)
    return Group(
        "beside", "Against the champion of their time", tuple(found), "On the same rows, the version less the champion."
    )


def _release(a: Side, b: Side) -> Group:
    def row(name: str, said: Callable[[Side], str], change: str = "") -> Row:
        return Row(name, said(a), said(b), change)

    def manifest(side: Side, name: str) -> str:
        return UNKNOWN if side.bundle is None else text(side.bundle.manifest, name) or UNKNOWN

    def parity(name: str) -> Callable[[Side], str]:
        return lambda side: number(figure(mapping(side.attested, "parity"), name))

    sizes = _bytes(a), _bytes(b)
    items = [count(None if side.items is None else len(side.items)) for side in (a, b)]
    found = [
        row("bundle", lambda side: "✓ whole: every byte as released" if side.bundle else f"✗ {side.damage}"),
        row("digest", lambda side: side.record.digest),
        Row("size", _size(sizes[0]), _size(sizes[1]), _relative(*sizes)),
        Row("items in vocabulary", items[0], items[1], _vocabulary(a, b)),
        row("precision", lambda side: manifest(side, "precision")),
        row("parity: largest difference", parity("max_abs_diff")),
        row("parity: ten best agree", parity("top10_agreement")),
        *_forms(a, b),
        row("made with", lambda side: _libraries(side.attested)),
    ]
    return Group("release", "What would serve", tuple(found))


def _forms(a: Side, b: Side) -> list[Row]:
    """Latency and provider of each form of the network that was measured."""
    named = [{text(form, "name"): form for form in rows(side.attested, "variants")} for side in (a, b)]
    return [
        Row(f"{name}: provider, ms at batch 1 and 32", _form(named[0].get(name)), _form(named[1].get(name)))
        for name in dict.fromkeys([*named[0], *named[1]])
    ]


def _form(form: Evidence | None) -> str:
    if form is None:
        return UNKNOWN
    kept = "" if form.get("kept") else "not kept: "
    times = (number(figure(form, name), digits=3) for name in ("ms_batch_1", "ms_batch_32"))
    return f"{kept}{text(form, 'provider') or 'not measured'}, {' and '.join(times)}"


def _met(record: VersionRecord, trial: TrialRecord) -> Met | None:
    """None where the version was no challenger of the trial."""
    arm = next((each.name for each in trial.challengers if each.version == record.version), "")
    if not arm or trial.is_aa:
        return None
    newest = trial.evidence[-1].evidence if trial.evidence else {}
    part = comparison(newest, arm)
    out = "out: rejected by an earlier look" if arm in trial.out and not part else ""
    return Met(
        trial=trial,
        arm=arm,
        verdict=out or text(part, "verdict") or "no comparison yet",
        lift=percent(figure(part, "lift")),
        interval=interval(ends(part, "lift_interval")),
        users=count(matured(part)),
    )


def _figures(record: VersionRecord, model: str) -> dict[str, float]:
    part = mapping(record.metrics, model)
    found = {str(name): value for name in part if (value := figure(part, name)) is not None}
    held_out = found.pop("rows", None)
    return found if held_out is None else {HELD_OUT: held_out, **found}


def _ahead(record: VersionRecord) -> dict[str, float]:
    own, then = _figures(record, "challenger"), _figures(record, "champion")
    return {name: own[name] - then[name] for name in own if name in then and name != HELD_OUT}


def _plain(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.4f}"


def _cutoff(record: VersionRecord) -> str:
    return f"{_EPOCH + timedelta(microseconds=record.cutoff_us):%Y-%m-%d %H:%M} UTC"


def _items(bundle: Bundle) -> Sequence[str]:
    stated = json.loads(bundle.read("vocabulary.json"))
    found: Sequence[str] = stated["items"]
    return found


def _vocabulary(a: Side, b: Side) -> str:
    if a.items is None or b.items is None:
        return ""
    return f"{len(b.items - a.items):,} added, {len(a.items - b.items):,} removed"


def _bytes(side: Side) -> float | None:
    if side.bundle is None:
        return None
    files: Mapping[str, Any] = side.bundle.manifest["files"]
    return float(sum(entry["bytes"] for entry in files.values()))


def _size(size: float | None) -> str:
    return UNKNOWN if size is None else f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _relative(one: float | None, other: float | None) -> str:
    return percent(other / one - 1, digits=1) if one and other else ""


def _libraries(attested: Evidence) -> str:
    found = mapping(attested, "libraries")
    return ", ".join(f"{name} {text(found, name)}" for name in sorted(found)) or UNKNOWN

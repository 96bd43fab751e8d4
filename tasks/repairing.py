"""Repair of the quarantine: its rows through the door once more, or out of the way by a person's decision.

A replay is a delivery like any other, of JSON lines that the quarantine's own rows make, judged by the settings of
today. What it takes in is marked in the same intent that delivers it, so a kill at any place is made up by the next
command; rows that fail again stay where they are.
"""

import difflib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO

import pyarrow.compute as pc

from relations.errors import DependencyFailed, UsageError
from relations.schemas import BEHAVIOURS
from stores.binding import fields
from stores.delivery import Opened, Reading, Receipt, Request, ingest_lock
from stores.home import Home
from stores.lake import Lake
from stores.quarantine import PSEUDONYM, Open, drop, find, open_deliveries, replay_lines, taken_in
from stores.settings import Settings, SourceSettings
from tasks.ingesting import deliver, rehearse, resume

_PLACE = "quarantine"


@dataclass(frozen=True)
class Repair:
    """What became of one delivery's open rows.

    `replayed`: rows that found their place in a table; `left`: still open, `illegible` of them bytes that no replay
    can read. `receipt` of the replay; None where there was nothing to replay.
    """

    delivery_id: str
    kind: str
    source: str
    replayed: int
    left: int
    illegible: int
    receipt: Receipt | None

    def as_json(self) -> dict[str, Any]:
        said = {
            name: getattr(self, name) for name in ("delivery_id", "kind", "source", "replayed", "left", "illegible")
        }
        return {**said, "receipt": None if self.receipt is None else self.receipt.as_json()}


def replay_rows(
    stated: str | None,
    *,
    home: Home,
    settings: Settings,
    now: datetime,
    columns: Mapping[str, str] | None = None,
    behaviours: Mapping[str, str] | None = None,
    kind: str | None = None,
    dry_run: bool = False,
) -> list[Repair]:
    """Deliver the open rows of the delivery whose id begins with `stated` (None: of each, of `kind` where given).

    Every row is judged as any other. A delivery that is named is let in by a person: what spoke against it as a whole
    (the share that failed, an anomaly) holds nothing back, while one of many that was held whole has to pass again.
    `columns`: the source's column → Ratchet's, or the name that `[sources.NAME] columns` gives it; `behaviours`: the
    source's → Ratchet's. Both for this replay alone. `dry_run`: judge, and change nothing. Raises UsageError: no such
    delivery, column or behaviour; DependencyFailed: disk, or another ingest holds the home.
    """
    lake = Lake(home.lake)
    wanted = None if stated is None else find(lake, stated)
    mapping = (columns or {}, behaviours or {})
    if dry_run:
        found = open_deliveries(lake, wanted, kind=kind)
        ready = [_ready(held, lake, settings, mapping, released=wanted is not None) for held in found]
        return [_foreseen(each, home=home, now=now) for each in ready]
    with ingest_lock(home):
        repairs = [_repaired(receipt, lake) for receipt in resume(home) if receipt.uri.startswith(f"{_PLACE}/")]
        for held in open_deliveries(lake, wanted, kind=kind):
            each = _ready(held, lake, settings, mapping, released=wanted is not None)
            if not held.legible:
                repairs.append(
                    Repair(held.delivery_id, held.kind, held.source, 0, held.illegible, held.illegible, None)
                )
            elif not any(each.made(repair) for repair in repairs):
                receipt = deliver([each.lines(home)], each.request, home=home, settings=each.settings, now=now)
                repairs.append(_repaired(receipt, lake))
        return repairs


def drop_rows(stated: str, *, home: Home, by: str, reason: str, rows: Sequence[int] = ()) -> tuple[str, int]:
    """Decide against open rows of the delivery whose id begins with `stated`; (its id, how many were open).

    `rows`: only these. Raises UsageError: no such delivery or row, or no reason.
    """
    lake = Lake(home.lake)
    delivery_id = find(lake, stated)
    with ingest_lock(home):
        resume(home)
        return delivery_id, drop(lake, delivery_id, by=by, reason=reason, rows=rows)


@dataclass(frozen=True)
class _Ready:
    """One delivery's replay before it is made. `settings`: with the replay's own mapping."""

    held: Open
    request: Request
    settings: Settings

    def lines(self, home: Home) -> Opened:
        return partial(_lines, home, self.held.delivery_id)

    def made(self, repair: Repair) -> bool:
        """Whether it was begun before, killed, and has just been finished: made again it would be another one."""
        read = self.request.fingerprint(Reading.of(self.settings, source=self.held.source))
        receipt = repair.receipt
        return receipt is not None and receipt.uri == self.request.uri and f"-{read[:8]}-" in receipt.delivery_id


def _ready(
    held: Open, lake: Lake, settings: Settings, mapping: tuple[Mapping[str, str], Mapping[str, str]], *, released: bool
) -> _Ready:
    request = _request(held, lake, settings, released=released)
    return _Ready(held, request, _remapped(held, settings, *mapping))


def _repaired(receipt: Receipt, lake: Lake) -> Repair:
    delivery_id = receipt.uri.removeprefix(f"{_PLACE}/")
    left = open_deliveries(lake, delivery_id)
    return Repair(
        delivery_id=delivery_id,
        kind=receipt.kind,
        source=receipt.source,
        replayed=taken_in(lake, delivery_id, by=receipt.delivery_id),
        left=sum(each.legible + each.illegible for each in left),
        illegible=sum(each.illegible for each in left),
        receipt=receipt,
    )


def _foreseen(ready: _Ready, *, home: Home, now: datetime) -> Repair:
    """Rows that the tables hold already would be replayed as well; a rehearsal cannot tell them from held ones."""
    held, receipt = ready.held, None
    if held.legible:
        receipt = rehearse(ready.lines(home), ready.request, home=home, settings=ready.settings, now=now)
    replayed = 0 if receipt is None else receipt.accepted + receipt.late
    left = held.legible + held.illegible - replayed
    return Repair(held.delivery_id, held.kind, held.source, replayed, left, held.illegible, receipt)


def _request(held: Open, lake: Lake, settings: Settings, *, released: bool) -> Request:
    receipts = lake.read("deliveries", columns=["delivery_id", "uri"])
    uris = receipts.filter(pc.equal(receipts.column("delivery_id"), held.delivery_id)).column("uri").to_pylist()
    uri = uris[0] if uris else ""
    polled = bool(settings.sources.get(held.source, SourceSettings()).uri) and "#" in uri
    return Request(
        uri=f"{_PLACE}/{held.delivery_id}",
        kind=held.kind,
        source=held.source,
        format="jsonl",
        streamed=uri.startswith("landing/") or polled,
        pseudonymous=False,
        replays=held.delivery_id,
        released=released,
    )


def _remapped(held: Open, settings: Settings, columns: Mapping[str, str], behaviours: Mapping[str, str]) -> Settings:
    """The settings with the replay's own mapping: it is judged, fingerprinted and resumed with it."""
    stated = settings.sources.get(held.source, SourceSettings())
    bound, names = dict(stated.columns), dict(stated.behaviours)
    for old, new in columns.items():
        bound[_ours(old, new, held, stated)] = old
    for old, new in behaviours.items():
        if new not in BEHAVIOURS:
            near = difflib.get_close_matches(new, BEHAVIOURS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(BEHAVIOURS)}"
            raise UsageError(f"--behaviour {old}={new}: {new!r} is no behaviour of ours{hint}")
        names[old] = new
    if held.named and bound.get("user_id", bound.get("user")) == PSEUDONYM:
        # The rows' pseudonyms stand under this name, in place of the source's raw ids.
        bound = {**{ours: name for ours, name in bound.items() if ours != "user"}, "user_id": "user_id"}
    source = stated.model_copy(update={"columns": bound, "behaviours": names})
    return settings.model_copy(update={"sources": {**settings.sources, held.source: source}})


def _ours(old: str, new: str, held: Open, stated: SourceSettings) -> str:
    """Ratchet's column that `new` names."""
    known = ["user_id" if field.name == "user" else field.name for field in fields(held.kind)]
    if new in known:
        return new
    for ours, name in stated.columns.items():
        if name == new:
            return ours
    near = difflib.get_close_matches(new, [*known, *stated.columns.values()], n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
    raise UsageError(
        f"--map {old}={new}: {new!r} is no column of {held.kind}, nor named in [sources.{held.source}] columns{hint}"
    )


@contextmanager
def _lines(home: Home, delivery_id: str) -> Iterator[BinaryIO]:
    """The rows to deliver, in a file without a name, of which a kill leaves nothing."""
    with tempfile.TemporaryFile(dir=home.staging) as file:
        try:
            for run in replay_lines(Lake(home.lake), delivery_id):
                file.write(run)
            file.seek(0)
        except OSError as error:
            raise DependencyFailed(f"{home.staging}: cannot write the rows to replay: {error}; make space") from error
        yield file

"""The quarantine, for people: what was held back, and why."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from stores.lake import Lake

EXAMPLES = 3


@dataclass(frozen=True)
class Held:
    """One delivery's quarantined rows. `reasons`: (expectation and column, rows), most first."""

    delivery_id: str
    kind: str
    source: str
    rows: int
    reasons: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Explanation:
    """One broken expectation. `examples`: the first raw rows that broke it, as delivered."""

    expectation: str
    column: str
    rows: int
    message: str
    examples: tuple[bytes, ...]


def listing(lake: Lake) -> list[Held]:
    """Open rows by delivery, in the order of the deliveries' ids."""
    held = _open_rows(lake, None)
    found = []
    for delivery_id in sorted(set(held.column("delivery_id").to_pylist())):
        rows = held.filter(pc.equal(held.column("delivery_id"), delivery_id))
        kind, source = rows.column("kind")[0].as_py(), rows.column("source")[0].as_py()
        found.append(Held(delivery_id, kind, source, rows.num_rows, reason_counts(rows)))
    return found


def explain(lake: Lake, delivery_id: str | None = None) -> list[Explanation]:
    """Every broken expectation of a delivery's open rows (None: of all), most rows first."""
    held = _open_rows(lake, delivery_id).sort_by([("delivery_id", "ascending"), ("row", "ascending")])
    counts: Counter[tuple[str, str]] = Counter()
    messages: dict[tuple[str, str], str] = {}
    examples: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    for raw, reasons in zip(held.column("raw").to_pylist(), held.column("reasons").to_pylist(), strict=True):
        for place in {(reason["expectation"], reason["column"]) for reason in reasons}:
            counts[place] += 1
            if len(examples[place]) < EXAMPLES:
                examples[place].append(raw)
        for reason in reasons:
            messages.setdefault((reason["expectation"], reason["column"]), reason["message"])
    return [
        Explanation(place[0], place[1], rows, messages[place], tuple(examples[place]))
        for place, rows in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def reason_counts(rows: pa.Table) -> tuple[tuple[str, int], ...]:
    """(expectation and column, rows that broke it) of quarantined rows, most first."""
    counts: Counter[str] = Counter()
    for reasons in rows.column("reasons").to_pylist():
        counts.update({f"{reason['expectation']} {reason['column']}".strip() for reason in reasons})
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _open_rows(lake: Lake, delivery_id: str | None) -> pa.Table:
    which = pc.field("state") == "open"
    if delivery_id is not None:
        which &= pc.field("delivery_id") == delivery_id
    return lake.read("quarantine").filter(which)

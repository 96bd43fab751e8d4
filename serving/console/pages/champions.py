"""Who served when, how they came to it and by whom; who serves now; and the way back."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from serving.console.pages.glass import asked
from serving.console.place import Place
from stores.break_glass import MOST_HOURS
from stores.break_glass_records import BreakGlassRecord
from stores.champion import former_reign
from stores.ledger_records import Champion, Reign
from tasks.asking import ask_servers


@dataclass(frozen=True)
class Served:
    """A reign as the history shows it. `lasted`: until the next one, or until now. `back_to`: of a rollback, the epoch
    whose champion it brought back. `glass`: the request behind a reign without evidence."""

    reign: Reign
    until: datetime | None
    lasted: timedelta
    glass: BreakGlassRecord | None


@dataclass(frozen=True)
class Server:
    """What one server of this machine says of itself. `version`: None where it does not say."""

    version: int | None
    digest: str
    agrees: bool


def champions_view(place: Place) -> dict[str, Any]:
    ledger, now = place.ledger, place.now()
    history, champion = ledger.history(), ledger.champion()
    ends = [*(reign.since for reign in history[1:]), None][: len(history)]
    glasses = ledger.break_glasses()
    broken = {each.epoch: each for each in glasses if each.epoch is not None}
    served = [
        Served(reign, until, (until or now) - reign.since, broken.get(reign.epoch))
        for reign, until in zip(history, ends, strict=True)
    ]
    servers = [_server(stated, champion) for stated in ask_servers(place.home)]
    return {
        "served": served[::-1],
        "champion": champion,
        "former": former_reign(history),
        "servers": servers,
        "tone": "plain" if not servers else "good" if all(server.agrees for server in servers) else "bad",
        "candidate": ledger.candidate(),
        "broken": next((each for each in glasses if each.in_force), None),
        "asked": next(iter(asked(place, glasses, now=now)), None),
        "most_hours": MOST_HOURS,
    }


def _server(stated: dict[str, Any], champion: Champion | None) -> Server:
    said = stated.get("champion")
    found = said if isinstance(said, dict) else {}
    version, digest = found.get("version"), str(found.get("digest", ""))
    return Server(
        version if isinstance(version, int) else None, digest, champion is not None and digest == champion.digest
    )

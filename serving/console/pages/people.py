"""Who may decide, and what proves that it is they. No secret is kept that could be shown."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.console.place import Place
from stores.people import Person
from stores.people_secrets import Token


@dataclass(frozen=True)
class Known:
    """`tokens`: newest first, with why each is not in force; empty for those that are. `expires`: the last of these;
    None where there is none, or one that never does."""

    person: Person
    tokens: list[tuple[Token, str]]
    expires: datetime | None
    in_force: int


def people_view(place: Place) -> dict[str, Any]:
    wall = place.wall()
    return {"people": [_known(place, person, wall) for person in place.ledger.people()], "wall": wall}


def _known(place: Place, person: Person, wall: datetime) -> Known:
    tokens = sorted(place.ledger.tokens(person.name), key=lambda token: token.created, reverse=True)
    valid = [token for token in tokens if not token.ended(wall)]
    ends = [token.expires for token in valid if token.expires is not None]
    last = max(ends) if len(ends) == len(valid) and ends else None
    return Known(person, [(token, token.ended(wall)) for token in tokens], last, len(valid))

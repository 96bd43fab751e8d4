"""Forged and replayed feedback, told to the real app: none counts, and a replay counts once."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.rows import Row, at_most

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from stores.home import Home

SEED = 5
AT, AT_US = "2026-01-01T00:00:00Z", 1_767_225_600_000_000
REASONS = {
    "tampered": {"does not fit", "not one of ours"},
    "expired": {"older than 30 days"},
    "swapped": {"does not fit"},
}
"""Kind of forgery → what its refusal may say."""
BATCH = 500
"""Events of a request."""


@dataclass
class Forger:
    """Has all that two users were shown, with its tokens, and one token that was honest a month ago."""

    events: list[dict[str, Any]]
    old: dict[str, Any]
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))

    def forged(self, kind: str) -> dict[str, Any]:
        event = dict(self.rng.choice(self.events))
        if kind == "tampered":
            return event | {"token": self._flipped(event["token"])}
        if kind == "expired":
            return self.old
        other = "v" if event["user_id"] == "u" else "u"
        return event | self.rng.choice([{"user_id": other}, {"item_id": "another"}, {"user_id": other.upper()}])

    def _flipped(self, token: str) -> str:
        """With one character changed, anywhere in it."""
        at = self.rng.randrange(len(token))
        return token[:at] + self.rng.choice([one for one in "0aZ9_-.:" if one != token[at]]) + token[at + 1 :]


def measure_forgery(folder: Path, *, each: int = 2_500) -> list[Row]:
    """`each` tokens tampered with, expired, swapped between users and items, and replayed, told to the real app."""
    from fastapi.testclient import TestClient

    from serving.app import create_app
    from stores import popularity
    from stores.home import Home
    from stores.settings import Settings

    home = Home.create(folder / "forgery", simulation=True)
    popularity.publish(home.popularity, [(f"item-{item:02d}", 20 - item) for item in range(20)])
    settings = Settings.model_validate({"home": {"clock": "request"}, "serving": {"flush_seconds": 60}})
    with TestClient(create_app(home, settings), base_url="http://127.0.0.1", headers={"X-Ratchet-Now": AT}) as client:
        forger = _shown(client, home)
        accepted, otherwise = 0, 0
        for kind, reasons in REASONS.items():
            told = _tell(client, [forger.forged(kind) for _ in range(each)])
            accepted += told["accepted"] + told["duplicate"]
            refused = [refusal["reason"] for refusal in told["refused"]]
            otherwise += each - sum(any(reason in said for reason in reasons) for said in refused)
        replays = [forger.rng.choice(forger.events) for _ in range(each)]
        honest = len({event["token"] for event in replays})
        told = _tell(client, replays)
        twice = abs(told["accepted"] - honest) + abs(told["duplicate"] - (each - honest))
        p99, wrong = _verify(client.app.state.service.desk, forger, each=each)  # type: ignore[attr-defined]
    logged = [line for file in (home.landing / "feedback").iterdir() for line in file.read_bytes().splitlines()]
    return [
        at_most(f"{3 * each:,} tokens tampered with, expired or swapped: accepted", accepted, 0, unit="events"),
        at_most("forged feedback: not refused for what is wrong with it", otherwise, 0, unit="events"),
        at_most(f"{each:,} replays of {honest} tokens: not counted once", twice, 0, unit="events"),
        at_most("rows of the feedback log beside one a token", abs(len(logged) - honest), 0, unit="rows"),
        at_most(f"{4 * each:,} tokens verified: wrongly", wrong, 0, unit="tokens"),
        at_most("CPU time to verify a token, p99", p99, 1.0, unit="ms"),
    ]


def _shown(client: "TestClient", home: "Home") -> Forger:
    from serving.choosing.tokens import DAY_US
    from stores.pseudonyms import Keys

    events = []
    for user in ("u", "v"):
        answer = client.post("/v1/recommend", json={"user_id": user, "k": 10}).json()
        events += [
            {"token": item["token"], "user_id": user, "item_id": item["item_id"], "behaviour": "purchase"}
            for item in answer["items"]
        ]
    tokens = client.app.state.service.desk._tokens  # type: ignore[attr-defined]
    user = Keys.load(home.keys).user("u")
    old = tokens.make(exposure_id="ab12:1", shown_us=AT_US - 31 * DAY_US, digest="d" * 64, user=user, item_id="item-00")
    return Forger(events, {"token": old, "user_id": "u", "item_id": "item-00", "behaviour": "purchase"})


def _tell(client: "TestClient", events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {"accepted": 0, "duplicate": 0, "refused": []}
    for begin in range(0, len(events), BATCH):
        answer = client.post("/v1/feedback", json={"events": list(events[begin : begin + BATCH])})
        answer.raise_for_status()
        told = {name: told[name] + said for name, said in answer.json().items()}
    return told


def _verify(desk: Any, forger: Forger, *, each: int) -> tuple[float, int]:
    """The 99th percentile of the CPU milliseconds of a verification, and how many came out wrong."""
    taken, wrong = [], 0
    for number in range(4 * each):
        kind = (*REASONS, "replayed")[number % 4]
        event = forger.rng.choice(forger.events) if kind == "replayed" else forger.forged(kind)
        names = desk.keys.history(event["user_id"])
        began = time.thread_time_ns()
        try:
            desk._tokens.exposure_id(event["token"], users=names, item_id=event["item_id"], now_us=AT_US)
            fits = True
        except ValueError:
            fits = False
        taken.append(time.thread_time_ns() - began)
        wrong += fits != (kind == "replayed")
    return sorted(taken)[len(taken) * 99 // 100] / 1e6, wrong

"""The facts that serving is told: counted by hand from what was delivered and looked at."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace as Plain
from typing import Any

import pytest

from relations.errors import DependencyFailed
from stores import facts
from stores.clock import set_clock
from stores.facts import Facts, Hold
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings
from tasks.ingesting import ingest_file
from tasks.refreshing import held_since, publish_facts, refresh_serving, trial_states

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SETTINGS = Settings.model_validate({"home": {"clock": "request"}})
NONE = {"delivered": 0, "accepted": 0, "quarantined": 0, "duplicate": 0, "late": 0}


def deliver(home: Home, folder: Path, rows: list[str], *, now: datetime) -> None:
    path = folder / "events.csv"
    path.write_text("\n".join(["user_id,item_id,behaviour,event_time,value", *rows]) + "\n")
    ingest_file(path, home=home, settings=SETTINGS, now=now)


def test_an_empty_home_has_facts_too(home: Home) -> None:
    set_clock(home, NOW)
    assert publish_facts(home, SETTINGS) == Facts(NOW, -1, None, NONE) == facts.read(home.facts)


def test_a_refresh_publishes_the_watermark_and_a_days_rows(home: Home, tmp_path: Path) -> None:
    """Yesterday's delivery counts until it is a day old; the watermark stays."""
    good = [f"u,i{n},view,2026-02-01T00:00:{n:02d}Z," for n in range(6)]
    deliver(home, tmp_path, [*good, "u,i,hover,2026-02-01,", good[0]], now=NOW)
    deliver(home, tmp_path, ["u,i,view,2026-01-31,"], now=NOW + timedelta(hours=1))
    set_clock(home, NOW + timedelta(hours=2))
    refresh_serving(home, SETTINGS)
    told = facts.read(home.facts)
    assert told is not None
    # 8 + 1 delivered = (6 + 1) accepted + 1 quarantined + 1 duplicate + 0 late
    assert told.rows == {"delivered": 9, "accepted": 7, "quarantined": 1, "duplicate": 1, "late": 0}
    assert told.watermark == datetime(2026, 2, 1, 0, 0, 5, tzinfo=UTC)

    set_clock(home, NOW + timedelta(hours=24))  # the first delivery is a day old now
    refresh_serving(home, SETTINGS)  # nothing new: told all the same
    later = facts.read(home.facts)
    assert later is not None
    assert later.rows == {**NONE, "delivered": 1, "accepted": 1}
    assert (later.watermark, later.published) == (told.watermark, NOW + timedelta(hours=24))


def test_quarantined_rows_are_told_though_the_events_stay_as_they_are(home: Home, tmp_path: Path) -> None:
    set_clock(home, NOW)
    deliver(home, tmp_path, ["u,i,view,2026-02-01,"], now=NOW)
    refresh_serving(home, SETTINGS)
    deliver(home, tmp_path, ["u,i,hover,2026-02-01,", "u,j,hover,2026-02-01,"], now=NOW)
    refresh_serving(home, SETTINGS)
    told = facts.read(home.facts)
    assert told is not None
    assert told.rows == {**NONE, "delivered": 3, "accepted": 1, "quarantined": 2}


def test_the_newest_delivery_of_each_source_and_what_a_days_rows_broke(home: Home, tmp_path: Path) -> None:
    """Yesterday's reasons go with yesterday's rows; a source that is silent stays, with its last delivery."""
    set_clock(home, NOW)
    deliver(home, tmp_path, ["u,i,hover,2026-02-01,", "u,,view,2026-02-01,", "u,j,view,2026-02-01,"], now=NOW)
    deliver(home, tmp_path, ["u,i,hover,2026-02-02,", "u,k,view,2026-02-02,"], now=NOW + timedelta(hours=1))
    set_clock(home, NOW + timedelta(hours=2))
    told = publish_facts(home, SETTINGS)
    assert told == facts.read(home.facts)
    assert told.rows["quarantined"] == 3  # hover twice, no item once
    newest = told.arrivals[0]
    assert [(each.source, each.kind) for each in told.arrivals] == [(newest.source, "events")]
    assert (newest.received, newest.state) == (NOW + timedelta(hours=1), "committed")
    assert newest.rows == {"delivered": 2, "accepted": 1, "quarantined": 1, "duplicate": 0, "late": 0}
    assert (home.root / newest.page).is_file()
    first, *others = told.broken
    assert (first.column, first.rows, first.delivery_id) == ("behaviour", 2, newest.delivery_id)
    assert first.page == newest.page
    assert [(each.column, each.rows) for each in others] == [("item_id", 1)]

    set_clock(home, NOW + timedelta(hours=24, minutes=30))  # the first delivery is a day old now
    later = publish_facts(home, SETTINGS)
    assert [(each.column, each.rows) for each in later.broken] == [("behaviour", 1)]
    assert later.arrivals == told.arrivals

    set_clock(home, NOW + timedelta(days=3))
    assert publish_facts(home, SETTINGS).broken == ()


def test_facts_that_are_none_are_written_anew(home: Home) -> None:
    set_clock(home, NOW)
    home.facts.write_text("half a fi")
    assert publish_facts(home, SETTINGS) == facts.read(home.facts)


class Held:
    """A ledger with an ended trial and one more, which is held since then."""

    def __init__(self, since: datetime | None, *, is_open: bool = True) -> None:
        self.since, self.is_open = since, is_open

    def trials(self) -> Any:
        return (Plain(id="t0", is_open=False), Plain(id="t1", is_open=self.is_open))

    def held_since(self, trial: str) -> datetime | None:
        return self.since if trial == "t1" else NOW


def test_only_an_open_trial_is_held() -> None:
    assert held_since(Held(NOW)) == Hold("t1", NOW)  # type: ignore[arg-type]
    assert held_since(Held(None)) is None  # type: ignore[arg-type]
    assert held_since(Held(NOW, is_open=False)) is None  # type: ignore[arg-type]


def test_of_each_state_the_newest_change_is_told() -> None:
    told = [("ROLLED_BACK", 5), ("REJECTED", 3), ("REJECTED", 1), ("PROMOTING", 4)]
    found = tuple(Plain(state=state, changed=NOW + timedelta(hours=hours)) for state, hours in told)
    assert trial_states(Plain(trials=lambda: found)) == {  # type: ignore[arg-type]
        "ROLLED_BACK": NOW + timedelta(hours=5),  # though another trial came after it
        "REJECTED": NOW + timedelta(hours=3),
        "PROMOTING": NOW + timedelta(hours=4),
    }


def test_with_the_ledger_down_what_was_told_before_stands(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(home, NOW)
    hold = Hold("t1", NOW - timedelta(hours=3))
    states = {"COMPARE": NOW - timedelta(hours=5)}
    facts.publish(home.facts, Facts(NOW, -1, None, NONE, hold, states))

    def down(_ledger: Ledger) -> Any:
        raise DependencyFailed("the database is down")

    monkeypatch.setattr(Ledger, "trials", down)
    told = publish_facts(home, SETTINGS)
    assert (told.hold, told.trial_states) == (hold, states)

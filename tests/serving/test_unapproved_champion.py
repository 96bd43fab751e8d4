"""Serving obeys the ledger's decisions, not whoever writes into MLflow or into the ledger's tables."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relations.errors import GateRefused
from serving.choosing.snapshots import Watcher
from stores.ledger import Ledger

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def promoted(shop: Any) -> tuple[str, ...]:
    """Version 2 was promoted over version 1; version 3 is registered. Returns their digests."""
    shop.crown()
    shop.trial(shop.version())
    shop.promote()
    shop.version()
    return tuple(record.digest for record in shop.ledger.versions())


def write(shop: Any, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(shop.home.root / "ledger.db", timeout=60)) as database, database:
        assert database.execute(statement, values).rowcount >= 1


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE champion SET version = 3, digest = {3}", "that is version 2 at epoch 2"),
        ("UPDATE champion SET version = 3, digest = {3}, epoch = 3", "that is version 2 at epoch 2"),
        ("UPDATE champion SET version = 1, digest = {1}, epoch = 1", "that is version 2 at epoch 2"),
        ("UPDATE champion SET digest = {3}", "that is version 2 at epoch 2"),
    ],
)
def test_a_champion_that_was_written_into_the_table_is_not_served(
    shop: Any, promoted: tuple[str, ...], statement: str, why: str
) -> None:
    first, second, third = promoted
    watcher: Watcher = shop.watcher(Ledger.of(shop.home, shop.settings))
    watcher.refresh()
    assert (watcher.current.champion and watcher.current.champion.digest, watcher.current.problems) == (second, ())
    write(shop, statement.format(f"'{first}'", f"'{first}'", f"'{second}'", f"'{third}'"))
    watcher.refresh()
    assert watcher.current.champion is not None
    assert watcher.current.champion.digest == second, "it goes on with what it had"
    (problem,) = watcher.current.problems
    assert "nobody approved it" in problem
    assert why in problem
    begun: Watcher = shop.watcher(Ledger.of(shop.home, shop.settings))
    begun.refresh()
    assert begun.current.champion is None, "a server that begins now serves no stranger"
    assert "nobody approved it" in begun.current.problems[0]
    write(shop, "UPDATE champion SET version = 2, digest = ?, epoch = 2", second)
    for each in (watcher, begun):
        each.refresh()
        assert each.current.champion is not None
        assert (each.current.champion.digest, each.current.problems) == (second, ())


CHAMPION = "UPDATE champion SET version = 3, digest = {3}"
HISTORY = "UPDATE champion_history SET version = 3, digest = {3} WHERE epoch = 2"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ((), "the audit tells of no promote"),
        (("UPDATE champion_history SET how = 'bootstrap' WHERE epoch = 2",), "the audit tells of no bootstrap"),
        (("UPDATE audit SET payload = replace(payload, {2}, {3})",), "trial t1 was of another version"),
        (
            ("UPDATE audit SET payload = replace(payload, {2}, {3})", "UPDATE trial SET challenger_digest = {3}",
             "UPDATE evidence SET evidence = replace(evidence, '}}', ',\"x\":1}}')"),
            "another look",
        ),
        (("UPDATE version SET digest = 'x' WHERE version = 3",), "version 3 has another digest"),
    ],
)  # fmt: skip
def test_forging_more_tables_does_not_suffice(
    shop: Any, promoted: tuple[str, ...], more: tuple[str, ...], why: str
) -> None:
    for statement in (CHAMPION, HISTORY, *more):
        write(shop, statement.format(*("" for _ in range(2)), *(f"'{digest}'" for digest in promoted[1:])))
        if "audit" in statement:
            write(shop, "UPDATE audit SET payload = replace(payload, '\"version\":2}', '\"version\":3}')")
    with pytest.raises(GateRefused, match=why):
        Ledger.of(shop.home, shop.settings).serving_state()


def test_every_way_to_become_champion_is_vouched_for(shop: Any, promoted: tuple[str, ...]) -> None:
    for act, version in (
        (lambda: shop.ledger.rollback(actor="ada", reason="worse", now=NOW), 1),
        (lambda: (shop.trial(3, name="t2"), shop.promote("t2")), 3),
        (lambda: shop.ledger.rollback(actor="ada", reason="worse", now=NOW + timedelta(hours=1)), 1),
    ):
        act()
        fresh = Ledger.of(shop.home, shop.settings).serving_state().champion
        assert fresh is not None
        assert fresh.version == version
    assert shop.ledger.verify() == []


def test_a_rollback_to_what_never_reigned_is_not_served(shop: Any, promoted: tuple[str, ...]) -> None:
    shop.ledger.rollback(actor="ada", reason="worse", now=NOW)
    write(shop, "UPDATE champion_history SET restores = 2 WHERE epoch = 3")
    with pytest.raises(GateRefused, match="another version's"):
        Ledger.of(shop.home, shop.settings).serving_state()


def test_a_break_glass_is_of_two_people(shop: Any, promoted: tuple[str, ...]) -> None:
    asked = shop.ledger.ask_break_glass(3, hours=1, actor="ada", reason="fire", now=NOW)
    shop.ledger.confirm_break_glass(asked.number, actor="bea", reason="indeed", now=NOW)
    champion = Ledger.of(shop.home, shop.settings).serving_state().champion
    assert champion is not None
    assert champion.digest == promoted[2]
    write(shop, "UPDATE break_glass SET confirmed_by = 'Ada'")
    with pytest.raises(GateRefused, match="no break-glass of two people"):
        Ledger.of(shop.home, shop.settings).serving_state()

"""What somebody did in MLflow by hand is told from what the mirror merely has to follow. MLflow is a dict here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from filelock import FileLock

from relations.errors import DependencyFailed
from stores import mirror
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.mirror import REPAIRED, reconcile
from stores.mirrored import MOST_NOTES
from stores.registry import ModelPage, Registered
from stores.settings import Settings

T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Killed(BaseException):
    """As if the process ended there."""


@dataclass
class Shelf:
    """What `Registry` does, in memory. `dies_after`: so many writes are done, and then no more."""

    home: Home
    settings: Settings = field(default_factory=Settings)
    uri: str = "memory"
    model: str = "ratchet"
    marks: dict[str, int] = field(default_factory=dict)
    words: dict[tuple[int, str], str] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    dies_after: int | None = None
    writes: int = 0

    def open(self) -> None:
        pass

    def page(self) -> ModelPage | None:
        return ModelPage(dict(self.marks), self._tags(0), self.words.get((0, ""), "")) if self.digests else None

    def versions(self) -> tuple[Registered, ...]:
        return tuple(
            Registered(number, digest, "run", self._tags(number), self.words.get((number, ""), ""))
            for number, digest in self.digests.items()
        )

    def set_tag(self, version: int, name: str, value: str) -> None:
        self._dies()
        self._put((version, name), value)

    def describe(self, version: int, text: str) -> None:
        self._dies()
        self._put((version, ""), text)

    def set_alias(self, name: str, version: int | None) -> None:
        self._dies()
        if version is None:
            self.marks.pop(name)
        else:
            self.marks[name] = version

    def _tags(self, version: int) -> Mapping[str, str]:
        return {name: text for (of, name), text in self.words.items() if of == version and name}

    def _put(self, place: tuple[int, str], text: str) -> None:
        if text:
            self.words[place] = text
        else:
            self.words.pop(place)

    def _dies(self) -> None:
        if self.writes == self.dies_after:
            raise Killed
        self.writes += 1


@dataclass
class Mirrored:
    ledger: Ledger
    shelf: Shelf

    def look(self) -> list[str]:
        shelf: Any = self.shelf
        return reconcile(self.ledger, shelf)

    @property
    def told(self) -> list[str]:
        return [text for each in self.notes for text in each["repaired"]]

    @property
    def notes(self) -> list[Mapping[str, Any]]:
        return [entry.payload for entry in self.ledger.audit() if entry.action == REPAIRED]

    def promote(self) -> None:
        self.ledger.open_trial("t1", {}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
        self.ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
        self.ledger.approve("t1", actor="ann", reason="good", now=T0)


@pytest.fixture
def mirrored(home: Home) -> Mirrored:
    """Version 1 is champion, 2 and 3 are registered; nothing was shown yet."""
    ledger, shelf = Ledger.of(home, Settings()), Shelf(home)
    for number in (1, 2, 3):
        shelf.digests[number] = f"{number:064x}"
        record = VersionRecord(number, f"{number:064x}", "full", None, 1, 1, 0, True, {}, "", T0, "checkpoint")
        ledger.record_version(record)
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    return Mirrored(ledger, shelf)


def test_following_the_ledger_is_no_news(mirrored: Mirrored) -> None:
    mirrored.shelf.marks["champion"] = 3  # there before the mirror ever looked
    assert "alias champion: version 3 → version 1" in mirrored.look()
    mirrored.promote()
    assert "alias champion: version 1 → version 2" in mirrored.look()
    mirrored.ledger.rollback(actor="ann", reason="worse", now=T0)
    assert "alias champion: version 2 → version 1" in mirrored.look()
    assert (mirrored.look(), mirrored.told) == ([], [])
    assert mirrored.ledger.verify() == []


def test_each_thing_moved_by_hand_is_put_back_and_told_once(mirrored: Mirrored) -> None:
    mirrored.look()
    shelf = mirrored.shelf
    before = dict(shelf.words)
    shelf.marks = {"champion": 3, "challenger": 2, "staging": 2}
    shelf.words |= {(3, "approved_by"): "eve\n| x", (1, "gate.state"): "", (2, ""): "the best", (0, ""): "y" * 500}
    shelf.words |= {(0, "gate.champion"): "3", (3, "note"): "a person's own"}
    mirrored.look()
    assert shelf.marks == {"champion": 1, "staging": 2}, "a person's own alias is a person's own"
    assert shelf.words == before | {(3, "note"): "a person's own"}
    cut = "y" * 119 + "…"
    put_back = before[0, ""][:119] + "…"
    assert sorted(mirrored.told) == sorted(
        [
            "alias champion: version 3 → version 1",
            "alias challenger: version 2 → none",
            "version 3: approved_by: eve | x → none",
            "version 1: gate.state: none → BOOTSTRAP",
            f"version 2: description: the best → {before[2, '']}",
            f"model: description: {cut} → {put_back}",
            "model: gate.champion: 3 → 1",
        ]
    )
    assert (mirrored.look(), len(mirrored.notes)) == ([], 1)
    shelf.marks["champion"] = 3
    mirrored.look()
    assert len(mirrored.notes) == 2, "the same again is told again"
    assert mirrored.ledger.verify() == []


def test_a_hand_is_seen_although_the_ledger_moved_on_meanwhile(mirrored: Mirrored) -> None:
    mirrored.look()
    mirrored.shelf.marks["champion"] = 3
    mirrored.promote()
    assert "alias champion: version 3 → version 2" in mirrored.look()
    assert mirrored.told == ["alias champion: version 3 → version 2"]


@pytest.mark.parametrize("writes", range(9))
def test_a_mirror_that_was_killed_is_no_hand(mirrored: Mirrored, writes: int) -> None:
    """After any number of writes; and the ledger goes on before the next look."""
    mirrored.look()
    mirrored.promote()
    mirrored.shelf.writes, mirrored.shelf.dies_after = 0, writes
    with pytest.raises(Killed):
        mirrored.look()
    mirrored.shelf.dies_after = None
    mirrored.ledger.rollback(actor="ann", reason="worse", now=T0)
    mirrored.look()
    assert (mirrored.look(), mirrored.told, mirrored.shelf.marks) == ([], [], {"champion": 1})


def test_a_hand_is_told_once_although_the_repair_was_killed(mirrored: Mirrored) -> None:
    mirrored.look()
    mirrored.shelf.marks["champion"] = 3
    for writes in (0, 0, None):
        mirrored.shelf.writes, mirrored.shelf.dies_after = 0, writes
        if writes is None:
            mirrored.look()
        else:
            with pytest.raises(Killed):
                mirrored.look()
    assert mirrored.told == ["alias champion: version 3 → version 1"]
    assert mirrored.shelf.marks == {"champion": 1}


def test_a_kill_between_the_note_and_what_is_left(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored.look()
    mirrored.shelf.marks["champion"] = 3

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as cut:
        cut.setattr(mirror, "write_left", killed)
        with pytest.raises(Killed):
            mirrored.look()
    mirrored.look()
    assert mirrored.told == ["alias champion: version 3 → version 1"]


def test_a_bundle_that_is_gone_is_told_and_cannot_be_put_back(mirrored: Mirrored) -> None:
    mirrored.look()
    mirrored.shelf.digests[1] = "f" * 64
    report = mirrored.look()
    assert report[0].startswith("version 1: MLflow has another bundle, ffffffffffff")
    assert mirrored.shelf.marks == {}, "an alias on another bundle would be a lie"
    assert mirrored.told == ["version 1: digest: MLflow has no version of the bundle any more, and it is not put back"]
    mirrored.shelf.digests[1] = f"{1:064x}"
    mirrored.look()
    assert (mirrored.look(), mirrored.shelf.marks, len(mirrored.notes)) == ([], {"champion": 1}, 1)
    mirrored.shelf.digests.clear()
    mirrored.look()
    assert len(mirrored.notes) == 2
    assert len(mirrored.notes[1]["repaired"]) == 3


def test_whoever_fights_the_mirror_does_not_fill_the_ledger(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored.look()
    at = 1_000.0
    monkeypatch.setattr(mirror.time, "time", lambda: at)
    for _ in range(MOST_NOTES + 3):
        at += 15
        mirrored.shelf.marks["champion"] = 3
        assert mirrored.look() == ["alias champion: version 3 → version 1"], "repaired each time"
    assert len(mirrored.notes) == MOST_NOTES
    at += 3_600
    mirrored.shelf.marks["champion"] = 3
    mirrored.look()
    assert [each["unreported_before"] for each in mirrored.notes] == [*[0] * MOST_NOTES, 3]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"number": 1, "sums": [], "meant": {}}', b"\xff"])
def test_without_what_was_left_nothing_is_called_a_hand(mirrored: Mirrored, content: bytes) -> None:
    mirrored.look()
    (file,) = mirrored.shelf.home.run.glob("mirror-*.json")
    file.write_bytes(content)
    mirrored.shelf.marks["champion"] = 3
    mirrored.look()
    assert (mirrored.shelf.marks, mirrored.told) == ({"champion": 1}, [])
    json.loads(file.read_text())


def test_nothing_is_written_while_nothing_changes(mirrored: Mirrored) -> None:
    mirrored.look()
    (file,) = mirrored.shelf.home.run.glob("mirror-*.json")
    before = (file.stat().st_ino, mirrored.shelf.writes)
    mirrored.look()
    assert (file.stat().st_ino, mirrored.shelf.writes) == before


def test_one_at_a_time(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LOCK_SECONDS", 0.05)
    with FileLock(mirrored.shelf.home.run / "mirror.lock"), pytest.raises(DependencyFailed, match="another process"):
        mirrored.look()
    monkeypatch.undo()
    reports: list[list[str]] = []
    looks = [Thread(target=lambda: reports.append(mirrored.look())) for _ in range(4)]
    for thread in looks:
        thread.start()
    for thread in looks:
        thread.join()
    assert sorted(map(bool, reports)) == [False, False, False, True], "one repairs, the others find it done"


def test_two_models_of_one_home_do_not_mix(mirrored: Mirrored, home: Home) -> None:
    mirrored.look()
    other: Any = Shelf(home, model="another", digests=dict(mirrored.shelf.digests))
    reconcile(mirrored.ledger, other)
    mirrored.look()
    assert reconcile(mirrored.ledger, other) == []
    assert mirrored.told == []
    assert len(list(Path(home.run).glob("mirror-*.json"))) == 2

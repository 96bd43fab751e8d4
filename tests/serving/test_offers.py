"""The catalogue's and the blocklist's files, as they change, go, and are damaged under a running server."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from relations.errors import RatchetError
from serving.choosing.offers import OfferWatch
from stores import blocklist
from stores.catalogue import Catalogue, publish

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def watch(tmp_path: Path) -> OfferWatch:
    return OfferWatch(catalogue_file=tmp_path / "c.npz", blocklist_file=tmp_path / "b.json")


def block(folder: Path, *items: str) -> None:
    blocklist.add(folder / "b.json", items, by="ada", reason="x", now=NOW)


def test_nothing_published_offers_everything(watch: OfferWatch) -> None:
    problems: list[str] = []
    offer = watch.look(problems)
    assert (offer.catalogue, offer.blocked, problems) == (None, frozenset(), [])
    assert watch.look(problems) is offer


def test_a_change_is_a_new_offer_and_no_change_the_same(watch: OfferWatch, tmp_path: Path) -> None:
    problems: list[str] = []
    block(tmp_path, "a")
    publish(tmp_path / "c.npz", Catalogue.of({"a": (True, None, [])}))
    first = watch.look(problems)
    assert (first.blocked, first.catalogue is not None) == ({"a"}, True)
    assert watch.look(problems) is first
    block(tmp_path, "b")
    second = watch.look(problems)
    assert (second.blocked, second.catalogue is first.catalogue) == ({"a", "b"}, True)
    blocklist.recorded(tmp_path / "b.json", blocklist.read(tmp_path / "b.json").unrecorded)
    assert watch.look(problems) is second  # another file, the same items
    assert problems == []


def test_damage_leaves_what_held_and_is_told(watch: OfferWatch, tmp_path: Path) -> None:
    block(tmp_path, "a")
    publish(tmp_path / "c.npz", Catalogue.of({"a": (True, None, [])}))
    before = watch.look([])
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.npz").write_bytes(b"?")
    for _ in range(2):
        problems: list[str] = []
        assert watch.look(problems) is before
        assert [problem.split(":")[0] for problem in problems] == ["catalogue", "blocklist"]
    (tmp_path / "b.json").unlink()
    problems = []
    assert watch.look(problems).blocked == {"a"}
    assert "is gone" in problems[1]
    block(tmp_path, "b")
    assert watch.look([]).blocked == {"b"}


def test_the_first_look_refuses_a_damaged_blocklist(watch: OfferWatch, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{")
    for _ in range(2):
        with pytest.raises(RatchetError, match="damaged"):
            watch.look([])
    (tmp_path / "b.json").unlink()
    watch.look([])


def test_obeying_reads_the_blocklist_alone(watch: OfferWatch, tmp_path: Path) -> None:
    watch.look([])
    block(tmp_path, "a")
    publish(tmp_path / "c.npz", Catalogue.of({"a": (True, None, [])}))
    watch.obey()
    assert watch.blocked == {"a"}
    (tmp_path / "b.json").write_text("{")
    watch.obey()
    assert watch.blocked == {"a"}
    problems: list[str] = []
    offer = watch.look(problems)
    assert (offer.blocked, offer.catalogue is None, len(problems)) == ({"a"}, False, 1)

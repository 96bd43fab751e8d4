"""The blocklist's file: who blocked what, when and why; nothing of it is lost or guessed."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relations.errors import DataRejected, DependencyFailed, UsageError
from stores import blocklist
from stores.blocklist import Block

NIGHT = datetime(2026, 3, 1, 3, tzinfo=UTC)


def test_items_come_and_go_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "serving" / "blocklist.json"
    assert blocklist.read(path).items == {}
    assert blocklist.add(path, ["ü🛒", "b", "b"], by="ada", reason="recalled", now=NIGHT) == ("ü🛒", "b")
    assert blocklist.add(path, ["b", "c"], by="bob", reason="again", now=NIGHT) == ("c",)
    assert blocklist.read(path).items["b"] == Block("ada", "2026-03-01T03:00:00+00:00", "recalled")  # the first stays
    assert blocklist.remove(path, ["b", "never"], by="bob", reason="checked", now=NIGHT) == ("b",)
    found = blocklist.read(path)
    assert sorted(found.items) == ["c", "ü🛒"]
    assert [(act.action, act.items, act.by) for act in found.unrecorded] == [
        ("block", ("ü🛒", "b"), "ada"),
        ("block", ("c",), "bob"),
        ("unblock", ("b",), "bob"),
    ]


def test_what_the_ledger_has_is_waited_for_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "blocklist.json"
    blocklist.add(path, ["a"], by="ada", reason="x", now=NIGHT)
    told = blocklist.read(path).unrecorded
    blocklist.add(path, ["b"], by="ada", reason="x", now=NIGHT)  # while the ledger was told
    blocklist.recorded(path, told)
    assert [act.items for act in blocklist.read(path).unrecorded] == [("b",)]
    assert sorted(blocklist.read(path).items) == ["a", "b"]


def test_nothing_to_change_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "blocklist.json"
    assert blocklist.remove(path, ["a"], by="ada", reason="x", now=NIGHT) == ()
    assert not path.exists()


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "blocklist.json"

    def block(name: str) -> None:
        blocklist.add(path, [name], by="ada", reason="x", now=NIGHT)

    threads = [threading.Thread(target=block, args=(f"i{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(blocklist.read(path).items) == [f"i{n}" for n in range(8)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps({"format": 2, "items": {}, "unrecorded": []}).encode(),
        json.dumps({"format": 1, "items": ["a"], "unrecorded": []}).encode(),
        json.dumps({"format": 1, "items": {"a": {"by": "ada"}}, "unrecorded": []}).encode(),
        json.dumps({"format": 1, "items": {}}).encode(),
    ],
)
def test_a_damaged_list_is_neither_read_nor_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "blocklist.json"
    path.write_bytes(content)
    with pytest.raises(DataRejected, match=r"blocklist\.json.*damaged"):
        blocklist.read(path)
    with pytest.raises(DataRejected, match=r"blocklist\.json.*damaged"):
        blocklist.add(path, ["a"], by="ada", reason="x", now=NIGHT)
    assert path.read_bytes() == content


def test_mistakes_and_a_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for items, by, reason in ((["a"], " ", "x"), (["a"], "ada", ""), ([], "ada", "x"), ([""], "ada", "x")):
        with pytest.raises(UsageError):
            blocklist.add(tmp_path / "b", items, by=by, reason=reason, now=NIGHT)
    monkeypatch.setattr(blocklist, "MOST_ITEMS", 2)
    with pytest.raises(UsageError, match="at most 2"):
        blocklist.add(tmp_path / "b", ["a", "b", "c"], by="ada", reason="x", now=NIGHT)
    (tmp_path / "file").write_text("")
    with pytest.raises(DependencyFailed):
        blocklist.add(tmp_path / "file" / "b", ["a"], by="ada", reason="x", now=NIGHT)

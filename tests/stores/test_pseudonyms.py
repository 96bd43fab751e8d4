"""Pseudonyms, their rotation by a chain of keys, and event ids that no rotation changes."""

import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.errors import DependencyFailed
from stores.pseudonyms import Keys, draw_key, key_file, newest_version

K1, K2, K3 = (bytes([n]) * 32 for n in (1, 2, 3))


def keys(*chain: bytes) -> Keys:
    return Keys(pseudonym=chain, event=b"e" * 32, token=b"t" * 32)


def mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def feistel(key: bytes, digits: str) -> str:
    left, right = int(digits[:16], 16), int(digits[16:], 16)
    for number in range(4):
        digest = hmac.digest(key, bytes([number]) + right.to_bytes(8, "big"), "sha256")
        left, right = right, left ^ int.from_bytes(digest[:8], "big")
    return f"{left:016x}{right:016x}"


def test_a_pseudonym_is_the_chain_of_keyed_functions() -> None:
    p1 = "p1_" + mac(K1, "Ada")
    p2 = "p2_" + feistel(K2, p1[3:])
    p3 = "p3_" + feistel(K3, p2[3:])
    assert keys(K1).user("Ada") == p1
    assert keys(K1, K2).user("Ada") == p2
    assert keys(K1, K2).lift(p1) == p2
    assert keys(K1, K2, K3).history("Ada") == (p3, p2, p1)
    assert keys(K1, K2, K3).roots_of([p3, p2, p1, "ada", "p4_" + p3[3:]]) == [p1, p1, p1, "ada", "p4_" + p3[3:]]


raw_ids = st.lists(st.text(st.characters(exclude_categories=()), max_size=30), max_size=5)


@given(raw_ids)
def test_lifting_what_was_stored_meets_what_is_made_anew(raw: list[str]) -> None:
    one, two, three = keys(K1), keys(K1, K2), keys(K1, K2, K3)
    assert three.lift_all(one.users(raw)) == three.lift_all(two.users(raw)) == three.users(raw)
    assert three.lift_all(three.users(raw)) == three.users(raw)  # a second lift changes nothing
    assert one.users(raw) == one.roots(raw) == three.roots(raw)
    assert three.roots_of(three.users(raw)) == three.roots_of(two.users(raw)) == three.roots(raw)
    assert [three.history(each)[0] for each in raw] == three.users(raw)


def test_what_is_no_pseudonym_stays() -> None:
    mixed = ["p9_" + "0" * 32, "p0_" + "0" * 32, "ada", "", "p1_" + "G" * 32]
    assert keys(K1, K2).lift_all(mixed) == mixed


def test_event_ids_are_those_of_before_the_chain() -> None:
    root = keys(K1).user("Ada")
    said = "\x1f".join((root, "lamp", "click", "1700000000000000", "2.0"))
    arguments = {"item_id": "lamp", "behaviour": "click", "event_time_us": 1_700_000_000_000_000, "value": 2}
    assert keys(K1).event_id(user_root=root, **arguments) == "e_" + mac(b"e" * 32, said)
    assert keys(K1, K2).event_id(user_root=keys(K1, K2).roots(["Ada"])[0], **arguments) == keys(K1).event_id(
        user_root=root,
        **arguments,
    )


def test_event_ids_by_column_are_the_single_ones() -> None:
    one = keys(K1, K2)
    columns = {
        "user_roots": one.roots(["a", "b", "a"]),
        "item_ids": ["x", None, None],
        "behaviours": ["rating", "search", "search"],
        "event_times_us": [1, 2, 2],
        "values": [4.5, None, None],
        "queries": [None, "lamp", "lamps"],
    }
    names = ("user_root", "item_id", "behaviour", "event_time_us", "value", "query")
    singly = [one.event_id(**dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    assert one.event_ids(**columns) == singly
    assert len(set(singly)) == 3


def test_keys_are_drawn_once_and_kept_from_others(tmp_path: Path) -> None:
    first = Keys.load(tmp_path)
    assert Keys.load(tmp_path) == first
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert "\\x" not in repr(first)  # a traceback with the keys in it shows none


def test_the_newest_key_file_is_in_force(tmp_path: Path) -> None:
    first = Keys.load(tmp_path)
    draw_key(tmp_path, 2)
    second = Keys.load(tmp_path)
    assert (first.version, second.version, newest_version(tmp_path)) == (1, 2, 2)
    draw_key(tmp_path, 2)  # a rotation that was killed after its key: the key stays
    assert Keys.load(tmp_path) == second
    assert second.event == first.event


def test_a_missing_or_broken_key_is_named(tmp_path: Path) -> None:
    Keys.load(tmp_path)
    draw_key(tmp_path, 2)
    key_file(tmp_path, 1).rename(tmp_path / "elsewhere")
    with pytest.raises(DependencyFailed, match=r"pseudonym-1\.key: missing"):
        Keys.load(tmp_path)
    key_file(tmp_path, 1).write_bytes(b"short")
    with pytest.raises(DependencyFailed, match=r"pseudonym-1\.key: 5 bytes, a key has 32"):
        Keys.load(tmp_path)

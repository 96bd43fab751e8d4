"""Users of a delivery: the pseudonyms of stores.pseudonyms, whatever the chunk and the memory of earlier ones."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks.pseudonymising
from stores.pseudonyms import Keys
from tasks.pseudonymising import Users

KEYS = {
    version: Keys(pseudonym=tuple(bytes([link]) * 32 for link in range(version)), event=b"e" * 32, token=b"t" * 32)
    for version in (1, 3)
}
IDS = st.one_of(st.none(), st.sampled_from(["ann", "bob", "Zoë", "李", " ", "\u200b", "x" * 513, "0"]))


@given(st.lists(st.lists(IDS, max_size=6), min_size=1, max_size=4), st.sampled_from([1, 3]), st.sampled_from([2, 100]))
def test_every_chunk_says_what_the_keys_say(chunks: list[list[str | None]], version: int, remembered: int) -> None:
    keys = KEYS[version]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.pseudonymising, "_REMEMBERED", remembered)
        users = Users(keys)
        for raw in chunks:
            names, roots, refused = users.hashed(pa.array(raw, pa.string()), column="visitor")
            bad = [row for row, each in enumerate(raw) if each in (" ", "\u200b", "x" * 513)]
            assert sorted(refused) == bad
            fine = [None if each is None or row in bad else each for row, each in enumerate(raw)]
            assert names.to_pylist() == [None if each is None else keys.user(each) for each in fine]
            assert roots.to_pylist() == [None if each is None else keys.roots([each])[0] for each in fine]


def test_pseudonyms_of_older_keys_are_lifted(tmp_path: Path) -> None:
    old, new = KEYS[1], KEYS[3]
    names, roots = Users(new).lifted(pa.array([old.user("ann"), None, new.user("bob")]))
    assert names.to_pylist() == [new.user("ann"), None, new.user("bob")]
    assert roots.to_pylist() == [new.roots(["ann"])[0], None, new.roots(["bob"])[0]]

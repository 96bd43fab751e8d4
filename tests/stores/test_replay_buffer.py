"""The replay buffer follows from what was seen alone: however it came about, it holds what a fresh choice would."""

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from model.continual.options import IncrementOptions, Replay
from model.continual.replay import choose, cut
from relations.schemas import REPLAY
from stores.lake import Lake
from stores.replay_buffer import Buffer, Rule, Seen, _advanced, brought_up, read_buffer, replayable, write_buffer
from stores.sequences.arrays import Sequences
from stores.upkeep import LakeKeeper

DAY_US = 86_400_000_000
Event = tuple[str, int, int]  # user, day, arrived at version


def sequences_of(events: Sequence[Event], *, version: int = 99, without: Collection[str] = ()) -> Sequences:
    """What there is at `version`. Event n is on item n of seven; a user's events ascend by (time, n)."""
    numbered = sorted(
        (user.encode(), day, n, arrived)
        for n, (user, day, arrived) in enumerate(events)
        if arrived <= version and user not in without
    )
    users = sorted({user for user, *_ in numbered})
    counts = [sum(user == name for user, *_ in numbered) for name in users]
    return Sequences(
        absorbed=max((arrived for _, _, _, arrived in numbered), default=-1),
        user_U=np.array(users, dtype="S"),
        items=pa.array([f"i{n}" for n in range(7)], pa.large_string()),
        offsets_U1=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        item_N=np.array([n % 7 for _, _, n, _ in numbered], dtype=np.int32),
        behaviour_N=np.ones(len(numbered), dtype=np.int8),
        time_N=np.array([day * DAY_US for _, day, _, _ in numbered], dtype=np.int64),
        value_N=np.full(len(numbered), np.nan),
        arrived_N=np.array([arrived for *_, arrived in numbered], dtype=np.int32),
    )


def rule(replay: str = "recent", *, events: int = 5, length: int = 2, key: int = 1) -> Rule:
    options = IncrementOptions(replay=Replay(replay), replay_events=events, replay_half_life_days=2.0)
    return Rule(options, length, seed=0, key_version=key)


def kept(sequences: Sequences, seen: Seen, by: Rule, before: Buffer | None = None, **given: Any) -> Buffer:
    allowed_N = given.get("allowed_N", np.ones(len(sequences), dtype=bool))
    returned_U = given.get("returned_U", np.zeros(len(sequences.user_U), dtype=bool))
    return brought_up(before, sequences, allowed_N=allowed_N, returned_U=returned_U, to=seen, rule=by)


def assert_same(one: Buffer, other: Buffer) -> None:
    assert (one.rule, one.seen, one.found) == (other.rule, other.seen, other.found)
    for each in fields(one.rows):
        assert getattr(one.rows, each.name).tolist() == getattr(other.rows, each.name).tolist()


EVENT = st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.integers(0, 4))


@settings(deadline=None, max_examples=60)
@given(
    events=st.lists(EVENT, max_size=40),
    cutoffs=st.lists(st.integers(1, 11), min_size=5, max_size=5).map(sorted),
    replay=st.sampled_from(["recent", "reservoir", "exemplars"]),
    room=st.integers(1, 30),
    length=st.integers(1, 4),
)
def test_step_by_step_it_is_what_is_chosen_at_once(
    events: list[Event], cutoffs: list[int], replay: str, room: int, length: int
) -> None:
    """Late events, users who come late, cutoffs that stand still: whatever way the stream was cut."""
    sequences, by, buffer = sequences_of(events), rule(replay, events=room, length=length), None
    for version, day in enumerate(cutoffs):
        seen = Seen(version, day * DAY_US)
        # what has not arrived yet is not in the store either
        now = sequences_of(events, version=version)
        buffer = kept(now, seen, by, buffer)
        assert_same(buffer, kept(now, seen, by))
        assert_same(buffer, kept(now, seen, by, buffer))
    seen_N = buffer.seen.among(sequences) if buffer else np.zeros(0)
    histories = sequences.histories(seen_N)
    pieces = cut(histories, length=length, options=by.options, seed=0)
    wanted_N = np.zeros(len(sequences), dtype=bool)
    wanted_N[np.flatnonzero(seen_N)] = choose(pieces, histories, options=by.options).mask(len(histories))
    assert buffer is not None
    assert buffer.found == len(pieces)
    everyone_N = np.ones(len(sequences), dtype=bool)
    assert replayable(buffer, sequences, allowed_N=everyone_N, rule=by).tolist() == wanted_N.tolist()


@settings(deadline=None, max_examples=60)
@given(
    events=st.lists(EVENT, max_size=40),
    out=st.sets(st.sampled_from("abcdef")),
    later=st.sets(st.sampled_from("abcdef")),
    gone=st.sets(st.sampled_from("abcdef")),
    replay=st.sampled_from(["recent", "reservoir", "exemplars"]),
    room=st.integers(1, 30),
)
def test_who_opts_out_comes_back_or_is_forgotten_leaves_what_a_fresh_choice_would_hold(
    events: list[Event], out: set[str], later: set[str], gone: set[str], replay: str, room: int
) -> None:
    by, sequences = rule(replay, events=room), sequences_of(events)
    buffer = kept(sequences, Seen(2, 6 * DAY_US), by, allowed_N=sequences.of_users(~sequences.among(out)))
    rows = buffer.rows.keep(~np.isin(buffer.rows.user_P, np.array([user.encode() for user in gone], dtype="S")))
    now, seen = sequences_of(events, without=gone), Seen(4, 8 * DAY_US)
    state = {"allowed_N": now.of_users(~now.among(later)), "returned_U": now.among(out - later)}
    before = replace(buffer, rows=rows) if len(rows) else None
    assert_same(kept(now, seen, by, before, **state), kept(now, seen, by, **state))


def test_going_on_looks_only_at_who_has_new_events() -> None:
    """Ten users of two events, one of whom goes on: there is room for 3 pieces, and the newest weigh most by far."""
    events = [(f"u{n}", day, 0) for n in range(10) for day in (1, 2)]
    by = rule(events=6)
    buffer = kept(sequences_of(events), Seen(0, 3 * DAY_US), by)
    assert buffer.found == 10
    assert len(buffer.rows) == 4  # 3 pieces of 2 events, and the first that finds no room
    now = sequences_of([*events, ("u3", 90, 1), ("u3", 91, 1)])
    seen_N = np.ones(len(now), dtype=bool)
    nobody_U = np.zeros(len(now.user_U), dtype=bool)
    looked_at: list[int] = []

    class Watched(Sequences):
        def histories(self, keep_N: np.ndarray, **given: Any) -> Any:
            looked_at.append(int(keep_N.sum()))
            return super().histories(keep_N, **given)

    watched = Watched(**now.__dict__)
    rows = _advanced(buffer, watched, seen_N, nobody_U, rule=by, to=(to := Seen(1, 99 * DAY_US)), found=11)
    assert looked_at == [4]  # u3's two pieces
    assert rows is not None
    assert_same(Buffer(rows, by.stated, to, 11), kept(now, to, by))
    assert (b"u3", 2) in zip(rows.user_P, rows.place_P, strict=True)


@pytest.mark.parametrize(
    "other",
    [rule("reservoir"), rule(events=4), rule(length=3), rule(key=2), replace(rule(), seed=1)],
    ids=["strategy", "room", "length", "key", "seed"],
)
def test_another_rule_chooses_anew(other: Rule) -> None:
    sequences, seen = sequences_of([(user, day, 0) for user in "abc" for day in range(3)]), Seen(0, 9 * DAY_US)
    assert_same(kept(sequences, seen, other, kept(sequences, seen, rule())), kept(sequences, seen, other))


def test_an_older_model_is_not_given_what_it_has_not_seen() -> None:
    """After a rollback the buffer has seen more than the champion."""
    sequences = sequences_of([(user, day, day) for user in "abc" for day in range(4)])
    newer, older = Seen(3, 9 * DAY_US), Seen(1, 9 * DAY_US)
    buffer = kept(sequences, older, rule(events=100), kept(sequences, newer, rule(events=100)))
    everyone_N = np.ones(len(sequences), dtype=bool)
    replayed_N = replayable(buffer, sequences, allowed_N=everyone_N, rule=rule(events=100))
    assert sequences.arrived_N[replayed_N].max() == 1


@pytest.mark.parametrize("events", [[], [("a", 1, 0)]], ids=["nothing", "one event"])
def test_nothing_to_keep(tmp_path: Path, events: list[Event]) -> None:
    """A single event has nothing before it to tell it from."""
    sequences, keeper = sequences_of(events), LakeKeeper(tmp_path / "lake")
    buffer = kept(sequences, Seen(0, 9 * DAY_US), rule())
    assert (len(buffer.rows), buffer.found) == (0, 0)
    write_buffer(keeper, buffer)
    assert read_buffer(keeper) is None
    assert not replayable(buffer, sequences, allowed_N=np.ones(len(sequences), dtype=bool), rule=rule()).any()


def test_the_table_holds_references_and_one_state(tmp_path: Path) -> None:
    keeper = LakeKeeper(tmp_path / "lake")
    sequences = sequences_of([("ä", 1, 0), ("ä", 2, 0), ("ä", 3, 0), ("b", 1, 0), ("b", 2, 0)])
    buffer = kept(sequences, Seen(0, 9 * DAY_US), rule(events=100))
    write_buffer(keeper, buffer)
    found = read_buffer(Lake(tmp_path / "lake"))
    assert found is not None
    assert_same(found, buffer)
    rows = keeper.read("replay").sort_by([("user", "ascending"), ("place", "ascending")]).to_pylist()
    assert [(row["user"], row["place"], row["events"], row["item_id"], row["found"]) for row in rows] == [
        ("b", 0, 2, "i4", 3),
        ("ä", 0, 2, "i1", 3),
        ("ä", 2, 1, "i2", 3),  # pieces of two: the third event's piece is one event long so far
    ]
    assert set(keeper.read("replay").column_names) == set(REPLAY.names)
    # the same again is no new version; a later state replaces the earlier one
    assert keeper.version("replay") == 1  # the empty table, then its rows
    write_buffer(keeper, buffer)
    assert keeper.version("replay") == 1
    write_buffer(keeper, kept(sequences, Seen(0, 2 * DAY_US), rule(events=100)))
    assert keeper.read("replay").num_rows == 0  # one event each before day 2
    assert len(DeltaTable(str(tmp_path / "lake" / "replay")).history()) == 3

"""What a training learns from: never its future, never a user who opted out, never more than its versions held, and of
the past no less than its windows show."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from model.continual.replay import choose, cut
from model.popularity import Popularity
from model.sequences import Histories, Holdout, merge, split_by_time
from model.windows import Corpus, Windows, cover, tile
from relations.errors import UsageError
from relations.schemas import DELIVERIES, EVENTS
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.pseudonyms import Keys
from stores.replay_buffer import read_buffer
from stores.sequences.store import SequenceStore
from stores.settings import Settings, load_settings
from tasks.ingesting import ingest_file
from tasks.jobs import Mode, NothingToLearn, TrainingJob, plan_training
from tasks.material import Material, load_material
from tasks.options import options_of
from tasks.releasing import _data_digests
from tasks.replaying import keep_replay
from tasks.training import fit_model

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TINY = "[model]\nwidth = 8\nblocks = 1\nheads = 1\n[train]\nepochs = 1\nthreads = 1\n"
Step = tuple[str, int, str]  # user, second, behaviour


def deliver(home: Home, rows: Sequence[tuple[int, Step]], *, name: str) -> None:
    """Events numbered, each on an item of its own: item `i07` is event `e07`."""
    lake = Lake(home.lake)
    stamps = {"received_time": NOW, "source": "file", "delivery_id": name}
    events = [
        {
            "event_id": f"e{number:02d}",
            "user": user,
            "item_id": f"i{number:02d}",
            "behaviour": behaviour,
            "event_time": NOW + timedelta(seconds=second),
            **stamps,
        }
        for number, (user, second, behaviour) in rows
    ]
    lake.append("events", pa.Table.from_pylist(events, schema=EVENTS), transaction=name)
    counts = dict.fromkeys(("delivered", "accepted", "quarantined", "duplicate", "late"), 0)
    receipt = {**counts, **stamps, "digest": name, "kind": "events", "uri": name, "state": "committed"}
    receipt["table_versions"] = sorted(lake.versions().items())
    lake.append("deliveries", pa.Table.from_pylist([receipt], schema=DELIVERIES), transaction=name)


def job_of(home: Home, mode: Mode, *, parent: int | None = None) -> TrainingJob:
    return TrainingJob(mode, Lake(home.lake).version("events"), -1, parent, parent, None, "checkpoints/test")


def version(home: Home, number: int, *, events_version: int, cutoff_us: int, length: int, passed: bool = True) -> None:
    """A registered version that has seen this, of a network that sees `length` events."""
    folder = home.checkpoints / f"v{number}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(f'{{"max_history": {length}}}')
    record = VersionRecord(
        version=number, digest=f"{number:064x}", mode="full", parent=None, events_version=events_version,
        items_version=-1, cutoff_us=cutoff_us, offline_passed=passed, metrics={}, run_id="", created=NOW,
        checkpoint=str(folder.relative_to(home.root)),
    )  # fmt: skip
    Ledger.of(home, Settings()).record_version(record)


def microseconds(second: int) -> int:
    return (int(NOW.timestamp()) + second) * 1_000_000


class Shown:
    """The events by item, and what a model was shown before each of its targets."""

    def __init__(self, rows: list[Step], cutoff_us: int) -> None:
        self.rows, self.cutoff_us = {f"i{number:02d}": row for number, row in enumerate(rows)}, cutoff_us

    def place(self, item: str) -> tuple[int, str]:
        """In the order of (event time, event id)."""
        return self.rows[item][1], item

    def windows(self, items_N: np.ndarray, corpus: Corpus, windows: Windows, *, exact: bool) -> int:
        """Every target that is trained comes after all that the network is shown for it, and before the cutoff."""
        trained = 0
        for start, train, end in zip(windows.start_W, windows.train_W, windows.end_W, strict=True):
            for position in range(train, end):
                if not corpus.next_N[position]:
                    continue
                target = items_N[position + 1]
                user, second, behaviour = self.rows[target]
                assert microseconds(second) < self.cutoff_us
                assert behaviour != "dislike"
                for item in items_N[start : position + 1]:
                    assert self.rows[item][0] == user
                    assert self.rows[item][1] <= second
                    assert not exact or self.place(item) < self.place(target)
                trained += 1
        return trained

    def full(self, material: Material, *, length: int) -> None:
        """A full fit trains each target once."""
        corpus = Corpus.of(material.new, np.arange(1, len(material.new.items) + 1))
        windows = tile(corpus, length=length, rng=np.random.default_rng(0))
        trained = self.windows(material.new.items[material.new.item_N], corpus, windows, exact=True)
        assert trained == (corpus.next_N > 0).sum()

    def holdout(self, holdout: Holdout) -> None:
        """A row is at or after the cutoff, and sees what is strictly earlier than itself: all of it, nothing else."""
        histories = holdout.histories
        items_N = histories.items[histories.item_N]
        for user_index, visible, event in zip(holdout.user_R, holdout.visible_R, holdout.event_R, strict=True):
            user, second, _ = self.rows[items_N[event]]
            assert microseconds(second) >= self.cutoff_us
            seen = items_N[histories.offsets_U1[user_index] : visible].tolist()
            assert sorted(seen) == sorted(i for i, (who, when, _) in self.rows.items() if who == user and when < second)


STEP = st.tuples(st.sampled_from("uvw"), st.integers(0, 9), st.sampled_from(["view", "view", "cart", "dislike"]))


@examples(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(STEP, min_size=3, max_size=20), data=st.data())
def test_no_training_sees_its_future(tmp_path_factory: pytest.TempPathFactory, rows: list[Step], data: Any) -> None:
    """From deliveries in any order over store, histories and split to the windows of a full fit and of an increment."""
    home = Home.create(tmp_path_factory.mktemp("path") / "home")
    arrivals = data.draw(st.permutations(list(enumerate(rows))), label="order of arrival")
    first = data.draw(st.integers(2, len(rows)), label="second delivery")
    length = data.draw(st.integers(1, 6), label="length of the history")
    deliver(home, arrivals[:first], name="first")
    full = load_material(home, Settings(), job := job_of(home, Mode.FULL))
    assert not len(full.past)
    Shown(rows, full.cutoff_us).full(full, length=length)
    known = {number for number, _ in arrivals[:first]}
    Shown([row if number in known else ("nobody", 0, "") for number, row in enumerate(rows)], full.cutoff_us).holdout(
        full.holdout
    )
    if first == len(rows):
        return
    deliver(home, arrivals[first:], name="second")
    retrained = load_material(home, Settings(), job_of(home, Mode.FULL))
    Shown(rows, retrained.cutoff_us).full(retrained, length=length)
    # what had not arrived then is no part of it now
    assert_same(full, load_material(home, Settings(), job))
    version(home, 1, events_version=job.events_version, cutoff_us=full.cutoff_us, length=length)
    settings = Settings.model_validate({"increment": {"replay_events": data.draw(st.integers(1, 20), label="room")}})
    material = load_material(home, settings, job_of(home, Mode.INCREMENTAL, parent=1))
    assert set(material.past.items) <= set(full.new.items)  # the parent was trained on no more than this
    assert material.cutoff_us >= full.cutoff_us
    assert material.new_events == len(rows) - len(full.new)
    histories, corpus, windows = increment(material.past, material.new, material.replayed_N, length=length)
    shown = Shown(rows, material.cutoff_us)
    shown.windows(histories.items[histories.item_N], corpus, windows, exact=False)
    shown.holdout(material.holdout)
    # and nothing is missing of what it would be shown with all of the past at hand
    options = options_of(settings)[2]
    pieces = choose(cut(full.new, length=length, options=options, seed=0), full.new, options=options)
    whole = increment(full.new, material.new, pieces.mask(len(full.new)), length=length)
    assert contents(histories, corpus, windows) == contents(*whole)
    everything = split_by_time(retrained_on(home), cutoff_us=material.cutoff_us)
    assert material.popularity == Popularity.of(everything.train)
    assert rows_of(material.holdout) == rows_of(everything.holdout)
    keep_replay.fn(home, settings, version=1)
    assert_same(material, again := load_material(home, settings, job_of(home, Mode.INCREMENTAL, parent=1)))
    assert (again.past.sequences(), again.replayed_N.tolist()) == (
        material.past.sequences(),
        material.replayed_N.tolist(),
    )


def increment(
    past: Histories, new: Histories, replayed_N: np.ndarray, *, length: int
) -> tuple[Histories, Corpus, Windows]:
    """What `fit_increment` trains of them."""
    histories, new_N = merge(past, new)
    replay_N = np.zeros(len(histories), dtype=bool)
    replay_N[~new_N] = replayed_N
    corpus = Corpus.of(histories, np.arange(1, len(histories.items) + 1)).only(new_N | replay_N)
    return histories, corpus, cover(corpus, new_N, length=length) + cover(corpus, replay_N, length=length)


def contents(histories: Histories, corpus: Corpus, windows: Windows) -> list[tuple[list[str], list[str]]]:
    """The items that each window shows, and its targets."""
    items_N = histories.items[histories.item_N]
    return sorted(
        (
            items_N[start:end].tolist(),
            [items_N[at + 1] for at in range(train, end) if corpus.next_N[at]],
        )
        for start, train, end in zip(windows.start_W, windows.train_W, windows.end_W, strict=True)
    )


def retrained_on(home: Home) -> Histories:
    sequences = SequenceStore(home.sequences).read(Lake(home.lake))
    return sequences.histories(np.ones(len(sequences), dtype=bool))


def rows_of(holdout: Holdout) -> dict[str, Any]:
    """All that a holdout says, whichever users it holds beside those who have rows."""
    histories = holdout.histories
    items_N = histories.items[histories.item_N]
    begin_R = histories.offsets_U1[holdout.user_R]
    return {
        "targets": items_N[holdout.event_R].tolist(),
        "visible": [items_N[a:b].tolist() for a, b in zip(begin_R, holdout.visible_R, strict=True)],
        "reached": holdout.reached_RB.tolist(),
        "items": histories.items.tolist(),
        "trained items": holdout.trained_I.tolist(),
        "trained users": holdout.trained_U[holdout.user_R].tolist(),
    }


def assert_same(one: Material, other: Material) -> None:
    assert one.cutoff_us == other.cutoff_us
    assert one.new.sequences() == other.new.sequences()
    assert one.new.time_N.tolist() == other.new.time_N.tolist()
    assert one.holdout.event_R.tolist() == other.holdout.event_R.tolist()


ROWS: list[Step] = [(user, 10 * step + shift, "view") for shift, user in enumerate("uvw") for step in range(8)]


def test_old_versions_need_no_old_files(home: Home) -> None:
    """The version that a parent was trained on is vacuumed, and its rows are told all the same."""
    numbered = list(enumerate(ROWS))
    for number in range(0, len(ROWS), 6):
        deliver(home, numbered[number : number + 6], name=f"d{number}")
        if not number:
            job = job_of(home, Mode.FULL)
            before = load_material(home, Settings(), job)
            digests = _data_digests(home, Settings(), job)
    assert digests == {"events": Lake(home.lake).content_digest("events", version=job.events_version)}
    Lake(home.lake).compact("events", above=1)
    table = DeltaTable(str(home.lake / "events"))
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert_same(before, load_material(home, Settings(), job))
    assert _data_digests(home, Settings(), job) == digests


def test_a_deletion_makes_another_training(home: Home, settings: Settings) -> None:
    """Or a full retrain after `forget` would find the old one done, weights and all."""
    with pytest.raises(UsageError, match="there are no events yet"):
        plan_training(home, settings, mode=Mode.FULL)
    deliver(home, list(enumerate(ROWS)), name="d")
    first = plan_training(home, settings, mode=Mode.FULL)
    assert plan_training(home, settings, mode=Mode.FULL) == first
    DeltaTable(str(home.lake / "events")).delete("\"user\" = 'u'")
    second = plan_training(home, settings, mode=Mode.FULL)
    assert not isinstance(first, NothingToLearn)
    assert not isinstance(second, NothingToLearn)
    assert second.folder != first.folder
    assert users_of(load_material(home, settings, second)) == {"v", "w"}


def users_of(material: Material) -> set[str]:
    return {str(user) for each in (material.new, material.past, material.holdout.histories) for user in each.users}


def say(home: Home, folder: Path, user: str, word: str, *, second: int) -> None:
    file = folder / "users.csv"
    file.write_text(f"user_id,opt_out,valid_from\n{user},{word},{(NOW + timedelta(seconds=second)).isoformat()}\n")
    receipt = ingest_file(file, home=home, settings=Settings(), kind="users", now=NOW + timedelta(days=1))
    assert receipt.accepted == 1


def test_who_opted_out_is_never_trained_on(tmp_path: Path, home: Home) -> None:
    """Through the door and down to the weights: no row of theirs, new or old, in training or in the test slice."""
    (home.root / "ratchet.toml").write_text(TINY)
    settings = load_settings(home.root / "ratchet.toml", environment={})
    lines = [
        f"{user},{user}{step},view,{(NOW + timedelta(seconds=second)).isoformat()}"
        for step, (user, second, _) in enumerate(ROWS)
    ]
    file = tmp_path / "events.csv"
    file.write_text("\n".join(["user_id,item_id,behaviour,event_time", *lines]) + "\n")
    ingest_file(file, home=home, settings=settings, now=NOW + timedelta(days=1))
    u, v, w = (Keys.load(home.keys).user(user) for user in "uvw")
    before = plan_training(home, settings, mode=Mode.FULL)
    assert isinstance(before, TrainingJob)
    assert users_of(load_material(home, settings, before)) == {u, v, w}

    say(home, tmp_path, "u", "true", second=0)
    # also for a training that was planned before: the statement is in the lake
    assert users_of(load_material(home, settings, before)) == {v, w}
    after = plan_training(home, settings, mode=Mode.FULL)
    assert isinstance(after, TrainingJob)
    assert after.folder != before.folder  # and it does not find the earlier one done
    material = load_material(home, settings, after)
    assert users_of(material) == {v, w}
    assert not any(item.startswith("u") for item in material.train.items)
    fit_model.fn(home, settings, after)
    vocabulary = (after.path(home) / "fitted" / "vocabulary.json").read_text()
    assert '"u' not in vocabulary
    assert '"v8"' in vocabulary

    # an increment from a model that was trained on u does not replay u's old events either
    version(home, 1, events_version=after.events_version, cutoff_us=microseconds(30), length=50)
    going_on = replace(after, mode=Mode.INCREMENTAL, parent=1)
    assert users_of(load_material(home, settings, going_on)) == {v, w}
    keep_replay.fn(home, settings, version=1)
    assert set(Lake(home.lake).read("replay")["user"].to_pylist()) == {v, w}
    # nor when the opt-out came after the buffer was written
    say(home, tmp_path, "v", "true", second=1)
    replayed = load_material(home, settings, going_on)
    assert len(replayed.past)
    assert users_of(replayed) == {w}
    say(home, tmp_path, "v", "false", second=2)
    assert users_of(load_material(home, settings, going_on)) == {v, w}

    say(home, tmp_path, "u", "false", second=5)
    assert users_of(load_material(home, settings, after)) == {u, v, w}


def test_the_past_of_an_increment_does_not_grow_with_history(home: Home) -> None:
    """40 users, of whom one has two new events; room for 6 events in pieces of 3."""
    old: list[Step] = [(f"u{user:02d}", 100 * user + step, "view") for user in range(40) for step in range(10)]
    new: list[Step] = [("u07", 10_000, "view"), ("u07", 10_001, "view"), ("u08", 10_002, "view")]
    deliver(home, list(enumerate(old)), name="old")
    version(home, 1, events_version=Lake(home.lake).version("events"), cutoff_us=microseconds(9_000), length=3)
    deliver(home, list(enumerate(new, start=len(old))), name="new")
    settings = Settings.model_validate({"increment": {"replay_events": 6}, "evaluation": {"holdout_share": 0.3}})
    material = load_material(home, settings, job_of(home, Mode.INCREMENTAL, parent=1))
    # before u07's new events the 3 that a window shows; two pieces of 3 with at most 3 events before each
    assert 3 + 6 <= len(material.past) <= 3 + 12
    assert material.replayed_N.sum() == 6
    assert [str(user) for user in material.holdout.histories.users] == ["u08"]
    assert len(material.holdout.histories) == 11  # all that u08 has seen
    assert material.holdout.trained_I.sum() == 402  # and the items by all events before the cutoff
    without = Settings.model_validate({"increment": {"replay_share": 0.0}})
    alone = load_material(home, without, job_of(home, Mode.INCREMENTAL, parent=1))
    assert (len(alone.past), alone.replayed_N.any()) == (3, False)


def test_the_buffer_follows_what_increments_go_on_from(home: Home) -> None:
    deliver(home, list(enumerate(ROWS)), name="d")
    lake = Lake(home.lake)
    events = lake.version("events")
    version(home, 1, events_version=events, cutoff_us=microseconds(30), length=4)
    version(home, 2, events_version=events, cutoff_us=microseconds(99), length=4, passed=False)
    assert keep_replay.fn(home, Settings(), version=2) == 0  # nothing goes on from that one
    assert lake.version("replay") == -1
    kept = keep_replay.fn(home, Settings(), version=1)
    assert kept == 3  # u, v and w have 3 events each before second 30, in one piece of at most 4
    assert keep_replay.fn(home, Settings(), version=1) == kept
    assert lake.version("replay") == 1
    found = read_buffer(lake)
    assert found is not None
    assert found.rule == "recent, half-life 30 days, 200000 events in pieces of 4, seed 0, key 1"
    assert found.seen.cutoff_us == microseconds(30)
    assert keep_replay.fn(home, Settings.model_validate({"increment": {"replay_share": 0.0}}), version=1) == 0

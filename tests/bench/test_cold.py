"""Who is asked what in the cold-start benchmark, on histories small enough to check by hand."""

from pathlib import Path

import numpy as np
import pytest

from bench.cold import SESSION, after, few_events, popularity, read, run, strangers, told_only
from relations.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 users of 30 ratings each, in disorder; user u rates 100 + (u + n) mod 37 at second n."""
    rows = [(user, 100 + (user + n) % 37, 4, n) for user in range(1, 41) for n in range(30)]
    order = np.random.default_rng(0).permutation(len(rows))
    text = "".join("\t".join(str(value) for value in rows[at]) + "\n" for at in order)
    (tmp_path / "u.data").write_text(text)
    return tmp_path


def test_histories_come_in_order(folder: Path) -> None:
    histories = read(folder)
    assert (len(histories.users), len(histories.items), len(histories)) == (40, 37, 1_200)
    begin = int(histories.offsets_U1[list(histories.users).index("7")])
    assert [histories.items[item] for item in histories.item_N[begin : begin + 3]] == ["107", "108", "109"]
    with pytest.raises(UsageError, match="neither MovieLens-100k"):
        read(folder.parent)


def test_strangers_are_not_trained_on_and_few_are_few(folder: Path) -> None:
    histories = read(folder)
    new_U, old_U = strangers(histories, seed=3)
    assert (len(new_U), len(old_U)) == (10, 30)
    assert not set(new_U) & set(old_U)
    few = few_events(histories, old_U, 50, seed=3)
    assert np.diff(few.offsets_U1).max() == SESSION
    assert sorted(np.diff(few.offsets_U1)) == [10, 20, 20]
    assert set(few.users) <= set(histories.users[old_U])
    assert len(few_events(histories, old_U, 10_000, seed=3)) == 30 * SESSION  # all there are


def test_the_question_stays_while_more_of_the_past_is_seen(folder: Path) -> None:
    histories = read(folder)
    new_U, _ = strangers(histories, seed=0)
    whole = after(histories, new_U, 10)
    asked = sorted(histories.items[histories.item_N[whole.event_R]])
    for seen in (0, 1, 10):
        told = told_only(histories, new_U, 10, seen)
        shown = told.histories
        assert sorted(shown.items[shown.item_N[told.event_R]]) == asked
        assert (told.visible_R - shown.offsets_U1[told.user_R]).tolist() == [seen] * 10
    one = told_only(histories, new_U, 10, 1)
    at = one.event_R[0]
    before, target = (int(one.histories.items[one.histories.item_N[place]]) for place in (at - 1, at))
    assert (target - before) % 37 == 1  # the newest before it


def test_recent_popularity_ranks_the_newest_first(folder: Path) -> None:
    histories = read(folder)
    late = histories.keep(histories.time_N >= np.sort(histories.time_N)[-120])
    best = np.argmax(popularity(histories, 0.1).counts)
    recent = np.bincount(late.item_N)
    assert late.items.tolist().index(histories.items[best]) in np.flatnonzero(recent == recent.max())


def test_figures_come_with_rivals_and_bars(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"bench.cold.SMALL": (60,), "model.small_data.MOST": 1, "model.small_data.LONGER": 2}.items():
        monkeypatch.setattr(name, value)
    rows = run(folder, repetitions=1)
    named = {row["name"]: row for row in rows}
    assert sum(row["bar"] is not None for row in rows) == 6 + 2  # each place against popularity; small data twice
    assert any(name.startswith("next event after 10: model − recent popularity") for name in named)
    assert any(name.startswith("event 11, 3 of the 10 before it seen") for name in named)
    assert all(np.isfinite(row["measured"]) for row in rows)

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.sequences import Histories
from model.windows import ROUND, Batch, Corpus, Epoch, Windows, cover, gather, plan_batches, tile

Make = Callable[..., Histories]
LENGTHS_OF_USERS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def corpus_of(lengths: list[int]) -> Corpus:
    """Users with that many distinct items each."""
    h = Histories(
        users=np.array([str(u) for u in range(len(lengths))], dtype=object),
        items=np.array([str(i) for i in range(sum(lengths))], dtype=object),
        item_N=np.arange(sum(lengths)),
        behaviour_N=np.ones(sum(lengths), dtype=np.int64),
        time_N=1_000_000 * np.arange(sum(lengths)),
        offsets_U1=np.cumsum([0, *lengths]),
    )
    return Corpus.of(h, np.arange(1, len(h) + 1))


def test_targets_are_the_next_distinct_items(histories_of: Make) -> None:
    h = histories_of(
        [
            ("u", "a", "view", 1),
            ("u", "a", "click", 2),  # the run of a ends here: its target is b
            ("u", "b", "view", 3),
            ("u", "c", "dislike", 4),  # context, not a target
            ("u", "a", "view", 5),
            ("v", "b", "dislike", 1),  # no first target
            ("v", "c", "view", 2),
        ]
    )
    corpus = Corpus.of(h, np.array([1, 2, 3]))  # a, b, c
    assert corpus.row_N.tolist() == [1, 1, 2, 3, 1, 2, 3]
    assert corpus.next_N.tolist() == [0, 2, 0, 1, 0, 3, 0]
    assert corpus.first_U.tolist() == [1, 0]


@settings(deadline=None, max_examples=50)
@given(lengths=LENGTHS_OF_USERS, length=st.integers(1, 10), seed=st.integers(0, 5))
def test_tiling_trains_every_target_once(lengths: list[int], length: int, seed: int) -> None:
    corpus = corpus_of(lengths)
    windows = tile(corpus, length=length, rng=np.random.default_rng(seed))
    trained = Counter(p for a, b in zip(windows.train_W, windows.end_W, strict=True) for p in range(a, b))
    assert trained == Counter(np.flatnonzero(corpus.next_N).tolist())
    assert (windows.length_W <= length).all()
    assert windows.targets_W(corpus.next_N).sum() == sum(lengths) - len(lengths)


@settings(deadline=None, max_examples=50)
@given(lengths=LENGTHS_OF_USERS, length=st.integers(1, 10), data=st.data())
def test_covering_trains_every_new_target_once_with_context(
    lengths: list[int], length: int, data: st.DataObject
) -> None:
    corpus = corpus_of(lengths)
    # the newest events of each user are new
    new_N = np.concatenate([np.arange(n) >= data.draw(st.integers(0, n), label="old") for n in lengths])
    windows = cover(corpus, new_N, length=length)
    trained = Counter(p for a, b in zip(windows.train_W, windows.end_W, strict=True) for p in range(a, b))
    wanted = [p for p in np.flatnonzero(corpus.next_N).tolist() if new_N[p + 1]]
    assert trained == Counter(wanted)
    assert (windows.length_W <= length).all()
    user = np.searchsorted(corpus.offsets_U1, windows.end_W - 1, side="right") - 1
    begin_W = corpus.offsets_U1[user]
    assert (windows.start_W >= begin_W).all()
    full = windows.length_W == length
    assert (full | (windows.start_W == begin_W)).all()  # context is cut by the length alone


def test_a_window_that_must_be_cut_keeps_half_as_context() -> None:
    corpus = corpus_of([20])
    new_N = np.arange(20) >= 3
    windows = cover(corpus, new_N, length=8)
    # positions 2 … 18 are trained, from the end: [15, 19) after 4 of context, and so on
    assert list(zip(windows.start_W, windows.train_W, windows.end_W, strict=True)) == [
        (11, 15, 19),
        (7, 11, 15),
        (3, 7, 11),
        (0, 2, 7),
    ]


@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.integers(1, 12), max_size=60), tokens=st.integers(1, 50))
def test_batches_hold_each_window_once_within_the_budget(lengths: list[int], tokens: int) -> None:
    end_W = np.cumsum([0, *lengths])[1:]
    windows = Windows(end_W - lengths if lengths else end_W, end_W, end_W)
    plan = plan_batches(windows, batch_tokens=tokens, rng=np.random.default_rng(0))
    assert sorted(np.concatenate(plan).tolist() if plan else []) == list(range(len(lengths)))
    for chosen in plan:
        assert len(chosen) == 1 or len(chosen) * windows.length_W[chosen].max() <= tokens


def test_little_of_a_batch_is_padding() -> None:
    """Windows that attention lays out as one rectangle are of similar length; nothing else is padded at all."""
    rng = np.random.default_rng(0)
    corpus = corpus_of([int(n) for n in rng.integers(2, 120, size=500)])
    epoch = Epoch.of(corpus, tile(corpus, length=50, rng=rng), opens_U=None, batch_tokens=1000, rng=rng)
    groups = [group for step in range(len(epoch)) for group in epoch.batch(step).groups]
    laid_out = sum(group.windows * group.length for group in groups)
    assert laid_out < 1.1 * sum(group.end - group.begin for group in groups)


def check(batch: Batch, corpus: Corpus) -> None:
    """The laws of every batch."""
    offsets = batch.offsets_B1
    length_B = offsets.diff()
    assert (offsets[0], offsets[-1]) == (0, batch.tokens)
    assert (length_B > 0).all()
    assert batch.place_N.tolist() == [place for length in length_B.tolist() for place in range(length)]
    assert [group.begin for group in batch.groups] == [0, *(group.end for group in batch.groups)][:-1]
    assert sum(group.windows for group in batch.groups) == len(length_B)
    begin = 0
    for group in batch.groups:  # each position has the place of its window and its own
        length_of = length_B[begin : begin + group.windows]
        longest = int(length_of.max())
        rounded = longest + -longest % ROUND
        assert group.length == (longest if (length_of == longest).all() else rounded)
        assert int(length_of.sum()) == group.end - group.begin
        row = torch.repeat_interleave(torch.arange(group.windows), length_of)
        place_M = row * group.length + batch.place_N[group.begin : group.end]
        assert group.place_M is None or torch.equal(group.place_M, place_M)
        assert (group.place_M is None) == bool((length_of == group.length).all())
        begin += group.windows
    assert (batch.age_N >= 0).all()
    for b in range(len(length_B)):  # events follow one another
        part = slice(int(offsets[b]), int(offsets[b + 1]))
        if batch.user_B[b] >= 0:
            assert (batch.age_N[part].diff() <= 0).all()
        else:
            assert batch.row_N[part].tolist() == [0]


def test_an_epoch_holds_every_target_and_every_first_event() -> None:
    corpus = corpus_of([1, 3, 9, 30])
    rng = np.random.default_rng(3)
    epoch = Epoch.of(corpus, tile(corpus, length=8, rng=rng), opens_U=None, batch_tokens=16, rng=rng)
    batches = [epoch.batch(step) for step in range(len(epoch))]
    for batch in batches:
        check(batch, corpus)
    first = [int(t) for b in batches for t in b.target_T[b.row_N[b.at_T] == 0]]
    later = [int(t) for b in batches for t in b.target_T[b.row_N[b.at_T] > 0]]
    assert sorted(first) == corpus.first_U.tolist()
    assert sorted(later) == sorted(corpus.next_N[corpus.next_N > 0].tolist())


def test_first_events_can_be_those_of_some_users() -> None:
    corpus = corpus_of([1, 3, 9, 30])
    rng = np.random.default_rng(3)
    windows = tile(corpus, length=8, rng=rng)
    opens_U = np.array([False, True, False, True])
    epoch = Epoch.of(corpus, windows, opens_U=opens_U, batch_tokens=16, rng=rng)
    first = [int(t) for b in map(epoch.batch, range(len(epoch))) for t in b.target_T[b.row_N[b.at_T] == 0]]
    assert sorted(first) == corpus.first_U[opens_U].tolist()


def test_users_of_one_event_still_make_a_step() -> None:
    corpus = corpus_of([1, 1])
    rng = np.random.default_rng(0)
    epoch = Epoch.of(corpus, tile(corpus, length=4, rng=rng), opens_U=None, batch_tokens=8, rng=rng)
    assert len(epoch) == 1
    batch = epoch.batch(0)
    assert sorted(batch.target_T.tolist()) == [1, 2]
    assert (batch.row_N.tolist(), batch.user_B.tolist(), batch.at_T.tolist()) == ([0], [-1], [0, 0])


def test_a_batch_by_hand(histories_of: Make) -> None:
    h = histories_of(
        [
            ("u", "a", "view", 0),
            ("u", "b", "click", 7),
            ("u", "c", "purchase", 10),
            ("v", "b", "view", 100),
            ("v", "a", "share", 160),
        ]
    )
    corpus = Corpus.of(h, np.array([1, 2, 3]))
    windows = Windows(np.array([0, 3]), np.array([1, 3]), np.array([2, 4]))  # u's first target is trained elsewhere
    batch = gather(corpus, windows, np.array([1]))
    # the shorter window first, and last the one that stands for users without history
    assert batch.offsets_B1.tolist() == [0, 1, 3, 4]
    assert batch.user_B.tolist() == [1, 0, -1]
    assert batch.row_N.tolist() == [2, 1, 2, 0]
    assert batch.behaviour_N.tolist() == [1, 1, 2, 0]
    assert batch.age_N.tolist() == [60, 10, 3, 0]  # before the event that follows: v's at 160, u's at 10
    assert batch.at_T.tolist() == [0, 2, 3]
    assert batch.target_T.tolist() == [1, 3, 2]  # a after v's b; c after u's b; b opens v's history
    assert batch.behaviour_T.tolist() == corpus.behaviour_N[[4, 2, 3]].tolist()
    assert batch.value_T.isnan().all()
    assert batch.weight_T.tolist() == [1, 1, 1]


def test_targets_carry_the_value_and_weight_of_their_event() -> None:
    corpus = corpus_of([4])
    corpus.value_N[:], corpus.weight_N[:] = [1, 2, 3, 4], [1, 0.5, 0.25, 2]
    batch = gather(corpus, Windows(np.array([0]), np.array([0]), np.array([3])), np.array([0]))
    assert batch.target_T.tolist() == [2, 3, 4, 1]
    assert batch.value_T.tolist() == [2, 3, 4, 1]
    assert batch.weight_T.tolist() == [0.5, 0.25, 2, 1]


@settings(deadline=None, max_examples=30)
@given(lengths=LENGTHS_OF_USERS, count=st.integers(1, 9), seed=st.integers(0, 3))
def test_pieces_hold_what_the_batch_holds(lengths: list[int], count: int, seed: int) -> None:
    corpus, rng = corpus_of(lengths), np.random.default_rng(seed)
    epoch = Epoch.of(corpus, tile(corpus, length=6, rng=rng), opens_U=None, batch_tokens=40, rng=rng)
    for step in range(len(epoch)):
        whole, pieces = epoch.batch(step), list(epoch.pieces(step, count))
        for piece in pieces:
            check(piece, corpus)
            assert piece.targets
        told = Counter((int(p.row_N[at]), int(to)) for p in pieces for at, to in zip(p.at_T, p.target_T, strict=True))
        expected = Counter((int(whole.row_N[at]), int(to)) for at, to in zip(whole.at_T, whole.target_T, strict=True))
        assert told == expected

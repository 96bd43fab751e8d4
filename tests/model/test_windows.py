from collections import Counter
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.sequences import Histories
from model.windows import Corpus, Epoch, Windows, cover, plan_batches, tile

Make = Callable[..., Histories]
LENGTHS_OF_USERS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def corpus_of(lengths: list[int]) -> Corpus:
    """Users with that many distinct items each."""
    h = Histories(
        users=np.array([str(u) for u in range(len(lengths))], dtype=object),
        items=np.array([str(i) for i in range(sum(lengths))], dtype=object),
        item_N=np.arange(sum(lengths)),
        behaviour_N=np.ones(sum(lengths), dtype=np.int64),
        time_N=np.arange(sum(lengths)),
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
    rng = np.random.default_rng(0)
    corpus = corpus_of([int(n) for n in rng.integers(2, 120, size=500)])
    windows = tile(corpus, length=50, rng=rng)
    epoch = Epoch.of(corpus, windows, first_F=corpus.first_U, batch_tokens=1000, rng=rng)
    sizes = [(batch.row_BL.size, int((batch.row_BL == 0).sum())) for batch in map(epoch.batch, range(len(epoch)))]
    assert sum(pad for _, pad in sizes) / sum(size for size, _ in sizes) < 0.05


def test_an_epoch_holds_every_target_and_every_first_event() -> None:
    corpus = corpus_of([1, 3, 9, 30])
    rng = np.random.default_rng(3)
    windows = tile(corpus, length=8, rng=rng)
    epoch = Epoch.of(corpus, windows, first_F=corpus.first_U, batch_tokens=16, rng=rng)
    batches = [epoch.batch(step) for step in range(len(epoch))]
    targets = sorted(int(t) for batch in batches for t in batch.target_BL[batch.target_BL > 0])
    assert targets == sorted(corpus.next_N[corpus.next_N > 0].tolist())
    assert sorted(int(t) for batch in batches for t in batch.first_F) == corpus.first_U.tolist()
    assert all(((batch.row_BL > 0) >= (batch.target_BL > 0)).all() for batch in batches)


def test_users_of_one_event_still_make_a_step() -> None:
    corpus = corpus_of([1, 1])
    rng = np.random.default_rng(0)
    epoch = Epoch.of(corpus, tile(corpus, length=4, rng=rng), first_F=corpus.first_U, batch_tokens=8, rng=rng)
    assert len(epoch) == 1
    assert sorted(epoch.batch(0).first_F.tolist()) == [1, 2]
    assert epoch.batch(0).row_BL.shape[0] == 0

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.network.blocks import TIME_BUCKETS, drop, time_bucket
from model.network.config import BlockKind, RankerConfig
from model.network.ranker import Ranker, materialised
from model.sequences import Histories
from model.windows import Batch, Corpus, Windows, gather

SIZES: dict[str, Any] = {"items": 9, "behaviours": 3, "width": 8, "blocks": 2, "heads": 2, "max_history": 6}
WAYS: dict[str, dict[str, Any]] = {
    "softmax": {"block": "softmax"},
    "hstu": {"block": "hstu"},
    "hstu by position alone": {"block": "hstu", "relative_times": False},
    "softmax without any place": {"block": "softmax", "absolute_positions": False, "relative_positions": False},
    "cosine": {"block": "hstu", "temperature": 0.1},
}
EVENT = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(0, 10**7))  # item, behaviour, seconds before
HISTORY = st.lists(EVENT, min_size=1, max_size=6)


def lively(**stated: Any) -> Ranker:
    """Untrained, but nothing of it is 0 or near it: at their usual scale all histories would look alike."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Ranker(RankerConfig(**SIZES | {"dropout": 0.5} | stated)).eval()
        for name, weight in net.named_parameters():
            if "table" in name or "bias" in name or "mask" in name:
                torch.nn.init.normal_(weight)
    return net


@pytest.fixture(scope="module", params=WAYS)
def ranker(request: pytest.FixtureRequest) -> Ranker:
    return lively(**WAYS[request.param])


def padded(history: list[tuple[int, int, int]], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `forward` takes: items, behaviours and ages, the times ascending to the last event's own."""
    ages = sorted((age for *_, age in history), reverse=True)
    columns = [item for item, *_ in history], [behaviour for _, behaviour, _ in history], ages
    return tuple(torch.tensor([[0] * (length - len(history)) + list(column)]) for column in columns)  # type: ignore[return-value]


def encoded(net: Ranker, batch: Batch, **how: Any) -> Tensor:
    return net.encode(batch.row_N, batch.behaviour_N, batch.age_N, batch.place_N, groups=batch.groups, **how)


def packed(histories: list[list[tuple[int, int, int]]]) -> Batch:
    """Users of those events and one more each, that their windows are asked about."""
    whole = [[*history, (9, 1, 0)] for history in histories]
    h = Histories(
        users=np.array([str(u) for u in range(len(whole))], dtype=object),
        items=np.array([str(i) for i in range(1, 10)], dtype=object),
        item_N=np.array([item - 1 for history in whole for item, *_ in history]),
        behaviour_N=np.array([behaviour for history in whole for _, behaviour, _ in history]),
        time_N=np.concatenate([-1_000_000 * np.sort([age for *_, age in history])[::-1] for history in whole]),
        offsets_U1=np.cumsum([0, *map(len, whole)]),
    )
    begin, end = h.offsets_U1[:-1], h.offsets_U1[1:] - 1
    return gather(Corpus.of(h, np.arange(1, 10)), Windows(begin, begin, end), np.zeros(0, dtype=np.int64))


@settings(deadline=None, max_examples=15)
@given(history=st.lists(EVENT, max_size=5), length=st.integers(1, 6))
def test_padding_is_invisible(ranker: Ranker, history: list[tuple[int, int, int]], length: int) -> None:
    least = max(1, len(history))
    with torch.inference_mode():
        short, long = ranker(*padded(history, least)), ranker(*padded(history, max(least, length)))
    assert short.shape == (1, 9)
    torch.testing.assert_close(short, long, rtol=0, atol=1e-5 * short.abs().max().item())


@settings(deadline=None, max_examples=10)
@given(histories=st.lists(HISTORY, min_size=1, max_size=5))
def test_training_and_serving_see_the_same_state(ranker: Ranker, histories: list[list[tuple[int, int, int]]]) -> None:
    """`encode` of packed windows gives at each position what `forward` scores for that prefix."""
    batch, prefixes = packed(histories), []
    for b, user in enumerate(batch.user_B.tolist()):
        ages = [*batch.age_N[int(batch.offsets_B1[b]) : int(batch.offsets_B1[b + 1])].tolist(), 0]
        seen = [(*event[:2], age) for event, age in zip(histories[user], ages, strict=False)]
        prefixes += [[(*e, age - ages[end]) for *e, age in seen[:end]] for end in range(1, len(ages))]
    with torch.inference_mode():
        table_VD, bias_V = ranker.catalogue()
        score_NV = encoded(ranker, batch) @ table_VD.T + bias_V
        expected = ranker(*(torch.cat(column) for column in zip(*(padded(p, 6) for p in prefixes), strict=True)))
    torch.testing.assert_close(score_NV, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_who_has_no_history_is_the_padding_position(ranker: Ranker) -> None:
    h = packed([[(3, 1, 5)]])
    corpus = Corpus(
        *(np.array([3, 4]), np.ones(2, dtype=int), np.array([0, 1]), np.full(2, np.nan, np.float32)),
        *(np.ones(2, np.float32), np.array([4, 0]), np.array([3]), np.array([0, 2])),
    )
    batch = gather(corpus, Windows(np.array([0]), np.array([0]), np.array([1])), np.array([0]))
    assert batch.tokens == h.tokens + 1
    with torch.inference_mode():
        table_VD, bias_V = ranker.catalogue()
        score_V = encoded(ranker, batch)[-1] @ table_VD.T + bias_V
        torch.testing.assert_close(score_V, ranker(*padded([], 1))[0], rtol=1e-5, atol=1e-4)


def test_the_future_is_not_seen_and_without_order_all_is(ranker: Ranker) -> None:
    batch, other = (packed([[(1, 1, 9), (2, 1, 6), (item, 1, 3)]]) for item in (3, 4))
    with torch.inference_mode():
        causal, both = (encoded(ranker, batch, causal=c) - encoded(ranker, other, causal=c) for c in (True, False))
    assert (causal.abs().amax(dim=1) > 1e-4).tolist() == [False, False, True]
    assert (both.abs().amax(dim=1) > 1e-4).all()


def test_a_window_sees_no_other(ranker: Ranker) -> None:
    """Windows of different lengths in one rectangle, with and without looking ahead."""
    first, second = [(n, 1, 10 * (10 - n)) for n in range(1, 6)], [(n, 2, 7 * (10 - n)) for n in range(1, 6)]
    for causal in (True, False):
        with torch.inference_mode():
            both = encoded(ranker, packed([first[:4], second]), causal=causal)
            alone = [encoded(ranker, packed([one]), causal=causal) for one in (first[:4], second)]
        torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-4)


def test_hidden_items_and_shifts_stand_in_the_items_place(ranker: Ranker) -> None:
    batch, other = (packed([[(1, 1, 9), (item, 1, 6), (3, 1, 3)]]) for item in (2, 5))
    masked_N = torch.tensor([False, True, False])
    with torch.inference_mode():
        assert torch.equal(encoded(ranker, batch, masked_N=masked_N), encoded(ranker, other, masked_N=masked_N))
        assert not torch.equal(encoded(ranker, batch), encoded(ranker, other))
        shift_ND = ranker.item_table(other.row_N) - ranker.item_table(batch.row_N)
        torch.testing.assert_close(encoded(ranker, batch, shift_ND=shift_ND), encoded(ranker, other))


@pytest.mark.parametrize("block", list(BlockKind))
def test_every_part_of_the_input_counts(block: BlockKind) -> None:
    net, base = lively(block=block), [(1, 1, 900), (2, 1, 800), (3, 1, 50)]
    changed = {
        "item": [(4, 1, 900), (2, 1, 800), (3, 1, 50)],
        "behaviour": [(1, 1, 900), (2, 2, 800), (3, 1, 50)],
        "order": [(2, 1, 900), (1, 1, 800), (3, 1, 50)],
        "age": [(1, 1, 900), (2, 1, 100), (3, 1, 50)],
    }
    with torch.inference_mode():
        before = net(*padded(base, 3))
        for what, history in changed.items():
            assert (before - net(*padded(history, 3))).abs().max() > 1e-3, what


def test_popularity_sets_the_first_order() -> None:
    net = Ranker(RankerConfig(**SIZES)).eval()
    net.start_from_popularity(np.array([5, 0, 1, 1, 1, 1, 1, 1, 100]))
    with torch.inference_mode():
        scores = net(*padded([], 1))
    assert scores.argsort(descending=True)[0, :2].tolist() == [8, 0]


def test_cosines_are_bounded_by_the_temperature() -> None:
    net = lively(temperature=0.05)
    net.item_bias.data.zero_()
    with torch.inference_mode():
        scores = net(*padded([(1, 1, 5), (2, 2, 3)], 2))
    assert scores.abs().max() <= 1 / 0.05 + 1e-4


@pytest.mark.parametrize("block", list(BlockKind))
def test_bfloat16_states_are_close(block: BlockKind) -> None:
    """Eight bits of significand through two blocks: states of unit variance within 0.05."""
    net = lively(block=block, width=32)
    batch = packed([[(n, 1, 100 * (9 - n)) for n in range(1, 7)]])
    with torch.inference_mode():
        exact, rough = encoded(net, batch), encoded(net, batch, dtype=torch.bfloat16)
    assert rough.dtype is torch.float32
    assert (exact - rough).abs().max() < 0.05


def test_time_buckets_are_logarithmic() -> None:
    """floor(2 ln(1 + s)): an hour is 2·ln 3601 = 16.4, a day 22.7, a year 34.5; ten years and negative ages are cut."""
    seconds = torch.tensor([-5, 0, 1, 3600, 86_400, 31_536_000, 10**12])
    assert time_bucket(seconds).tolist() == [0, 0, 1, 16, 22, 34, TIME_BUCKETS - 1]


def test_dropout_keeps_the_mean_and_its_share() -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 250)
    found = drop(x, 0.25, True)
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    assert found.mean().item() == pytest.approx(1, abs=0.01)  # deviation √(⅓/10⁵) = .002
    assert drop(x, 0.25, False) is x
    assert drop(x, 0.0, True) is x


def test_hugging_face_saves_and_loads_it(ranker: Ranker, tmp_path: Path) -> None:
    ranker.save_pretrained(tmp_path)
    again = Ranker.from_pretrained(tmp_path, local_files_only=True).eval()
    asked = padded([(1, 1, 50), (5, 3, 20)], 3)
    with torch.inference_mode():
        torch.testing.assert_close(ranker(*asked), again(*asked))
        torch.testing.assert_close(ranker(*asked), materialised(again)(*asked))
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}

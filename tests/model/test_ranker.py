from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.network.ranker import Ranker, RankerConfig

CONFIG = {"items": 9, "behaviours": 3, "width": 8, "blocks": 2, "heads": 2, "max_history": 6, "dropout": 0.5}


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Ranker(RankerConfig(**CONFIG)).eval()
        for table in (net.item_table, net.behaviour_table, net.position_table):
            torch.nn.init.normal_(table.weight)  # at their usual scale all histories would look alike
    return net


def padded(values: list[int], length: int) -> Tensor:
    return torch.tensor([[0] * (length - len(values)) + values])


@settings(deadline=None, max_examples=30)
@given(history=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), max_size=5), length=st.integers(1, 6))
def test_padding_is_invisible(ranker: Ranker, history: list[tuple[int, int]], length: int) -> None:
    items, behaviours = [item for item, _ in history], [behaviour for _, behaviour in history]
    least = max(1, len(history))
    with torch.inference_mode():
        short = ranker(padded(items, least), padded(behaviours, least))
        long = ranker(padded(items, max(least, length)), padded(behaviours, max(least, length)))
    assert short.shape == (1, 9)
    torch.testing.assert_close(short, long, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(history=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_training_and_serving_see_the_same_state(ranker: Ranker, history: list[int]) -> None:
    """`encode` over a right-padded window gives at each position what `forward` scores for that prefix."""
    row = torch.tensor([history + [0] * (6 - len(history))])
    behaviour = (row > 0).long()
    with torch.inference_mode():
        states = ranker.encode(row, behaviour)[0]
        for end in range(1, len(history) + 1):
            prefix = torch.tensor([history[:end]])
            scores = states[end - 1] @ ranker.item_table.weight[1:].T + ranker.item_bias[1:]
            torch.testing.assert_close(ranker(prefix, torch.ones_like(prefix))[0], scores, rtol=0, atol=1e-5)


def test_every_part_of_the_input_counts(ranker: Ranker) -> None:
    with torch.inference_mode():
        base = ranker(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 1]]))
        for items, behaviours in (([4, 2, 3], [1, 1, 1]), ([1, 2, 3], [1, 2, 1]), ([2, 1, 3], [1, 1, 1])):
            other = ranker(torch.tensor([items]), torch.tensor([behaviours]))
            assert (base - other).abs().max() > 1e-3


def test_popularity_sets_the_first_order() -> None:
    net = Ranker(RankerConfig(**CONFIG)).eval()
    net.start_from_popularity(torch.tensor([5, 0, 1, 1, 1, 1, 1, 1, 100]).numpy())
    with torch.inference_mode():
        scores = net(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    assert scores.argsort(descending=True)[0, :2].tolist() == [8, 0]


def test_hugging_face_saves_and_loads_it(ranker: Ranker, tmp_path: Path) -> None:
    ranker.save_pretrained(tmp_path)
    again = Ranker.from_pretrained(tmp_path, local_files_only=True).eval()
    items = torch.tensor([[0, 1, 5]])
    with torch.inference_mode():
        torch.testing.assert_close(ranker(items, items.clamp(max=3)), again(items, items.clamp(max=3)))
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}

import numpy as np
import pytest
import torch

from model.fitted import Fitted
from model.growth import grow
from model.network.config import BlockKind, RankerConfig
from model.network.ranker import Ranker
from model.optimizers.building import Optimizers
from model.options import TrainOptions

PLAIN = np.array([5, 13, 2, 14, 15])  # items 13, 14 and 15 are new
USERS = np.array([0, 0, 0, 1, 2])


def ages_of(items: torch.Tensor) -> torch.Tensor:
    """Oldest first, of the real positions alone."""
    return (items > 0) * torch.arange(1000 * items.shape[1], 0, -1000)


@pytest.mark.parametrize("more", [1, 3, 300, 1000])
def test_old_scores_keep_their_bits(fitted: Fitted, more: int) -> None:
    grown = grow(fitted.ranker, items=12 + more, row_N=PLAIN[:3], user_N=USERS[:3], modalities={})
    rng = np.random.default_rng(more)
    for batch in (1, 2, 7, 32):
        items = torch.from_numpy(rng.integers(0, 13, size=(batch, 8)))
        with torch.inference_mode():
            before = fitted.ranker(items, (items > 0).long(), ages_of(items))
            after = grown(items, (items > 0).long(), ages_of(items))
        assert after.shape == (batch, 12 + more)
        assert torch.equal(before, after[:, :12])


@pytest.mark.parametrize(("block", "width"), [(BlockKind.HSTU, 8), (BlockKind.SOFTMAX, 64)])
@pytest.mark.parametrize("items", [1, 7, 255, 256, 1000, 2126])
def test_old_scores_keep_their_bits_at_any_size(items: int, block: BlockKind, width: int) -> None:
    """These sizes, but for 256, differ in the last columns when the product is taken over the bare table."""
    net = Ranker(RankerConfig(items=items, behaviours=1, width=width, blocks=1, block=block)).eval()
    nobody = np.zeros(0, dtype=int)
    grown = grow(net, items=items + 73, row_N=nobody, user_N=nobody, modalities={})
    for batch in (1, 2, 32):
        row = torch.randint(1, items + 1, (batch, 3))
        with torch.inference_mode():
            asked = row, row.clamp(max=1), ages_of(row)
            assert torch.equal(net(*asked), grown(*asked)[:, :items])


def test_new_rows_start_from_their_neighbours(fitted: Fitted) -> None:
    grown = grow(fitted.ranker, items=15, row_N=PLAIN, user_N=USERS, modalities={})
    old = fitted.ranker.item_table.weight
    table = grown.item_table.weight
    torch.testing.assert_close(table[13], (old[5] + old[2]) / 2)  # both are next to item 13, in user 0
    torch.testing.assert_close(table[14], old[1:].mean(dim=0))  # alone in user 1
    torch.testing.assert_close(grown.item_bias[13:], fitted.ranker.item_bias[1:].mean().expand(3))


def test_the_optimiser_goes_on_with_new_rows(fitted: Fitted, brief: TrainOptions) -> None:
    grown = grow(fitted.ranker, items=15, row_N=PLAIN, user_N=USERS, modalities={})
    named = {f"ranker.{name}": weight for name, weight in grown.named_parameters()}
    optimizers = Optimizers(named, options=brief, tables=("ranker.item_table.weight",))
    optimizers.load_state_tensors(fitted.optimizer_state)
    state = optimizers.state_tensors()
    assert state.keys() == fitted.optimizer_state.keys()
    for name, tensor in fitted.optimizer_state.items():
        assert torch.equal(state[name][: len(tensor)] if tensor.dim() else state[name], tensor)
    assert not state["ranker.item_table.weight/exp_avg"][13:].any()
    second = fitted.optimizer_state["ranker.item_table.weight/exp_avg_sq"]
    torch.testing.assert_close(state["ranker.item_table.weight/exp_avg_sq"][14], second[1:].mean(dim=0))


def test_neighbours_are_weighted_by_count(fitted: Fitted) -> None:
    row_N = np.array([1, 13, 1, 2, 13, 3, 3, 3, 3, 3, 4])  # 4 is six events from the second 13
    grown = grow(fitted.ranker, items=13, row_N=row_N, user_N=np.zeros(11, dtype=int), modalities={})
    old = fitted.ranker.item_table.weight
    # the first 13 sees 1, then 1, 2, (13), 3, 3; the second sees 1, (13), 1, 2, then 3 five times
    total = (2 * old[1] + old[2] + 2 * old[3]) + (2 * old[1] + old[2] + 5 * old[3])
    torch.testing.assert_close(grown.item_table.weight[13], total / (5 + 8))


def test_growing_leaves_the_parent_alone(fitted: Fitted) -> None:
    before = fitted.digest
    grown = grow(fitted.ranker, items=13, row_N=PLAIN[:3], user_N=USERS[:3], modalities={})
    with torch.no_grad():
        for tensor in grown.parameters():
            tensor.add_(1)
    assert fitted.digest == before

import math

import pytest
import torch

from model.objectives.behaviours import BehaviourQueries, leave_untold


def test_asked_states_by_hand() -> None:
    queries = BehaviourQueries(behaviours=2, width=2)
    state, behaviour = torch.tensor([[3.0, 4.0]] * 3), torch.tensor([0, 1, 2])
    for keep_length in (False, True):
        torch.testing.assert_close(queries(state, behaviour, keep_length=keep_length), state)  # q starts at 0
    with torch.no_grad():
        queries.query.weight[2] = torch.tensor([9.0, 1.0])
    asked = queries(state, behaviour, keep_length=False)
    torch.testing.assert_close(asked, torch.tensor([[3.0, 4.0], [3.0, 4.0], [12.0, 5.0]]))
    kept = queries(state, behaviour, keep_length=True)
    torch.testing.assert_close(kept[2], torch.tensor([12.0, 5.0]) * 5 / 13)  # as long as (3, 4)


def test_gradients_reach_state_and_query_and_none_is_never_trained() -> None:
    queries = BehaviourQueries(behaviours=2, width=3).double()
    torch.nn.init.normal_(queries.query.weight, generator=torch.Generator().manual_seed(0))
    state = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    behaviour = torch.tensor([0, 1, 2, 2])
    for keep_length in (False, True):
        assert torch.autograd.gradcheck(lambda x, k=keep_length: queries(x, behaviour, keep_length=k), state)
        (grad,) = torch.autograd.grad(queries(state, behaviour, keep_length=keep_length).sum(), queries.query.weight)
        assert grad[0].abs().sum() == 0
    plain = queries(state, behaviour, keep_length=False).sum()
    torch.testing.assert_close(torch.autograd.grad(plain, queries.query.weight)[0][2], torch.full((3,), 2.0).double())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_seeded_share_is_left_untold(share: float) -> None:
    behaviour = torch.full((10_000,), 3)
    told = leave_untold(behaviour, share=share, seed=4)
    assert torch.equal(told, leave_untold(behaviour, share=share, seed=4))
    assert set(told.tolist()) <= {0, 3}
    assert (told == 0).double().mean().item() == pytest.approx(share, abs=4 * math.sqrt(0.25 / 10_000))

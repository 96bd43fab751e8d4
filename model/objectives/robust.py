"""Weights that trust a target less, the less the network believes it: clicks by mistake, curiosity, gifts.

Shapes: N states, D width, V items, S negatives. Weights carry no gradient.
"""

import torch
from torch import Tensor

from model.objectives.softmax import CHUNK_ELEMENTS


@torch.no_grad()
def target_nats(
    state_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    *,
    negative_S: Tensor | None = None,
    log_q_S: Tensor | None = None,
) -> Tensor:
    """−log p(target) of each state, in nats [N]: under the full softmax, or with negatives under the sampled one.

    `log_q_S` as in `sampled_softmax`. Costs the forward half of the loss once more, a chunk of states at a time.
    """
    own_N = (state_ND * table_VD[target_N]).sum(dim=1) + bias_V[target_N]
    if negative_S is None:
        near_KD, shift_K = table_VD, bias_V
    else:
        near_KD, shift_K = table_VD[negative_S], bias_V[negative_S]
        if log_q_S is not None:
            shift_K = shift_K - log_q_S - torch.tensor(float(len(negative_S)), device=log_q_S.device).log()
    nats_N = torch.empty_like(own_N)
    step = max(1, CHUNK_ELEMENTS // max(1, len(near_KD)))
    for at in range(0, len(state_ND), step):
        part = slice(at, at + step)
        logits = torch.addmm(shift_K, state_ND[part], near_KD.T)
        if negative_S is None:
            nats_N[part] = logits.logsumexp(dim=1) - own_N[part]
        else:
            logits.masked_fill_(negative_S[None, :] == target_N[part, None], float("-inf"))
            nats_N[part] = torch.logaddexp(logits.logsumexp(dim=1), own_N[part]) - own_N[part]
    return nats_N


def soften(nats_N: Tensor, *, power: float) -> Tensor:
    """p^q with p = e^(−nats): the weight with which cross-entropy has the gradient of (1 − p^q)/q.

    That is the generalised cross-entropy of Zhang & Sabuncu (NeurIPS 2018): q → 0 is cross-entropy, q = 1 the mean
    absolute error, which label noise cannot sway. The same weight is R-CE's for positives (Wang et al., WSDM 2021).
    Over thousands of items p is small even for good answers: use q of 0.05 to 0.3, not the 0.7 of ten classes.
    """
    return torch.exp(-power * nats_N.detach())


def truncate(nats_N: Tensor, *, share: float) -> Tensor:
    """1, but 0 for the ⌊share·N⌋ targets of the largest loss.

    T-CE (Wang et al., WSDM 2021), there with a share that rises over the first steps; here it is constant.
    """
    weight_N = torch.ones_like(nats_N)
    weight_N[torch.argsort(nats_N.detach(), descending=True, stable=True)[: int(share * len(nats_N))]] = 0
    return weight_N

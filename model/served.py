"""A ranker's weights as its exported graph has them, by name: what a delta may change."""

import numpy as np
import torch

from model.network.ranker import Ranker, materialised

_UNUSED = ("mask_vector",)  # of training alone: not in the graph


@torch.no_grad()
def served_weights(ranker: Ranker) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Copies, float32: those with one row an item ([V + 1, …], row 0 padding), and the body's.

    `catalogue` is the table that scores are taken with, where it is not the one that histories are read with.
    """
    training = ranker.training
    plain = materialised(ranker)
    ranker.train(training)
    table = plain.item_table.weight
    rows = {"item_table": table, "item_bias": plain.item_bias}
    if ranker.config.temperature:
        rows["catalogue"] = torch.nn.functional.normalize(table, dim=-1)
    named = {f"item_table.{name}" for name in plain.item_table.state_dict()} | {"item_bias", *_UNUSED}
    body = {name: tensor for name, tensor in plain.state_dict().items() if name not in named}
    return _copied(rows), _copied(body)


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().float().numpy().copy() for name, tensor in tensors.items()}

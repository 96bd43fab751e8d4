"""Small data: what is chosen on held-out users, and the pool with popularity, beside plain references."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model.evaluation import RankerRecommender
from model.export import export_release
from model.fit import fit_full
from model.fitted import Fitted
from model.graph import history_inputs
from model.inputs import Inputs
from model.options import NetworkOptions, TrainOptions
from model.sequences import BEHAVIOUR_NAMES, Histories
from model.small_data import SHARES, choose, fit_small_or_full, log_popularity, nats_of, shrunk


def noise(users: int, *, length: int = 8, items: int = 12, seed: int = 0) -> Histories:
    """Nothing to learn but how often items occur: 1 / rank."""
    rng = np.random.default_rng(seed)
    weight_I = 1 / np.arange(1, items + 1)
    item_N = np.concatenate([np.arange(items), rng.choice(items, users * length - items, p=weight_I / weight_I.sum())])
    return Histories(
        users=np.array([f"u{user:03d}" for user in range(users)], dtype=object),
        items=np.array([f"i{item:02d}" for item in range(items)], dtype=object),
        item_N=item_N,
        behaviour_N=np.full(users * length, BEHAVIOUR_NAMES.index("view")),
        time_N=np.arange(users * length, dtype=np.int64) * 1_000_000,
        offsets_U1=np.arange(users + 1, dtype=np.int64) * length,
    )


def test_what_can_be_learnt_is_trusted_and_noise_is_not(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions
) -> None:
    learnt = choose(cycle, network=tiny, training=brief)
    assert (learnt.epochs, learnt.share) == (36, 1.0)  # 3 · 12: a walk in a ring is certain
    assert learnt.nats < 0.5 * learnt.popularity_nats
    nothing = choose(noise(40), network=replace(tiny, blocks=1), training=brief)
    assert nothing.share <= 0.4
    assert nothing.nats == pytest.approx(nothing.popularity_nats, rel=0.02)


def test_enough_events_privacy_and_lone_users_are_fitted_as_stated(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions
) -> None:
    stated = (brief.epochs, 1.0, 0)
    enough = replace(brief, small_events=len(cycle))
    assert [(c.epochs, c.share, c.targets) for c in [choose(cycle, network=tiny, training=enough)]] == [stated]
    private = replace(brief, dp_clip=1.0, dp_noise=1.0)
    assert choose(cycle, network=tiny, training=private).targets == 0
    alone = cycle.keep(cycle.user_N() == 0)
    assert choose(alone, network=tiny, training=brief).targets == 0
    # Two users who share no item: nothing that one met can be told from the other.
    apart = cycle.keep((cycle.user_N() < 2) & (cycle.item_N != 0))
    apart = replace(apart, items=np.array([f"i{n:03d}" for n in range(len(apart))], dtype=object))
    apart = replace(apart, item_N=np.arange(len(apart)))
    assert choose(apart, network=tiny, training=replace(brief, epochs=1)).targets == 0
    one, other = (fit(cycle, network=tiny, training=replace(enough, epochs=1)) for fit in (fit_full, fit_small_or_full))
    assert one.digest == other.digest


def test_the_same_data_gives_the_same_model(tiny: NetworkOptions, brief: TrainOptions) -> None:
    few = noise(6)
    one, other = (fit_small_or_full(few, network=tiny, training=replace(brief, epochs=2)) for _ in range(2))
    assert one.digest == other.digest


def inputs_of(fitted: Fitted) -> Inputs:
    """Nobody, one event, and a whole history."""
    inputs = Inputs.nothing(3, 4, attributes=0)
    inputs.row_BL[1, -1:], inputs.row_BL[2] = 3, [1, 2, 3, 4]
    inputs.behaviour_BL[inputs.row_BL > 0] = 1
    return inputs


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_the_pool_is_in_the_weights(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions, temperature: float, tmp_path: Path
) -> None:
    network = replace(tiny, temperature=temperature)
    fitted = fit_full(cycle, network=network, training=replace(brief, epochs=1))
    items = fitted.vocabulary.items
    log_V = log_popularity(cycle, items)
    asked = inputs_of(fitted)
    own_BV = RankerRecommender.of(fitted).scores(asked)
    pooled = shrunk(fitted, share=0.4, log_V=log_V)
    np.testing.assert_allclose(RankerRecommender.of(pooled).scores(asked), 0.4 * own_BV + 0.6 * log_V, atol=1e-5)
    np.testing.assert_array_equal(RankerRecommender.of(fitted).scores(asked), own_BV)  # the argument stays as it is
    assert shrunk(fitted, share=1.0, log_V=log_V) is fitted
    if not temperature:
        exported = export_release(pooled, tmp_path)
        assert exported.parity.holds
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        feed = dict(zip(history_inputs(()), asked.arrays(), strict=True))
        feed |= {
            "mask": np.zeros(len(items) + 1, np.float32),
            "excluded": np.zeros((3, 1), np.int64),
            "k": np.array([1]),
        }
        (served_BV,) = session.run(["scores"], feed)
        np.testing.assert_allclose(served_BV[:, 1:], 0.4 * own_BV + 0.6 * log_V, atol=1e-4)


def test_likelihoods_agree_with_asking_one_by_one(cycle: Histories, fitted: Fitted) -> None:
    """A user's events one after another through the padded network, that of serving."""
    judged = cycle.keep(cycle.user_N() == 3)
    judged = judged.keep(np.arange(len(judged)) < 6)
    log_V = log_popularity(cycle, fitted.vocabulary.items)
    prior_V = torch.from_numpy(log_V).float()
    row_N = fitted.vocabulary.rows(judged.items)[judged.item_N]
    wanted, popular = np.zeros(len(SHARES)), 0.0
    for place in range(len(row_N)):
        inputs = Inputs.nothing(1, max(place, 1), attributes=0)
        if place:
            inputs.row_BL[0], inputs.behaviour_BL[0] = row_N[:place], judged.behaviour_N[:place]
            # ages within a window are told from its end: 100 s a step, asked about the event after it
            inputs.age_BL[0] = (judged.time_N[min(len(row_N) - 1, 5)] - judged.time_N[:place]) // 1_000_000
        logit_V = torch.from_numpy(RankerRecommender.of(fitted).scores(inputs)[0])
        for at, share in enumerate(SHARES):
            wanted[at] -= float(torch.log_softmax(share * logit_V + (1 - share) * prior_V, 0)[row_N[place] - 1])
        popular -= float(torch.log_softmax(prior_V, 0)[row_N[place] - 1])
    found = nats_of(fitted, judged, log_V=log_V)
    assert found.targets == 6
    np.testing.assert_allclose(found.nats_S, wanted, rtol=1e-3)
    assert found.popularity == pytest.approx(popular, rel=1e-5)


def test_log_counts_are_centred_and_know_items_without_events(cycle: Histories) -> None:
    three = cycle.keep(np.isin(np.arange(len(cycle)), [0, 12, 1]))  # i00 twice or once, by who walks on
    items = (*(str(item) for item in three.items), "never met")
    counts = [*np.bincount(three.item_N), 1]
    log_V = log_popularity(three, items)
    np.testing.assert_allclose(log_V, np.log(counts) - np.log(counts).mean())
    assert log_V.sum() == pytest.approx(0)

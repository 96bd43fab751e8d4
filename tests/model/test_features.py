"""The feature spec, and that nothing is seen of an attribute before it was told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.attributes import Column, as_of
from model.continual.increment import fit_increment
from model.continual.options import IncrementOptions
from model.evaluation import RankerRecommender, evaluate
from model.features import Attribute, FeatureOptions, FeatureSpec, Kind, Source
from model.fit import NO_FEATURES, fit_full
from model.fitted import load_fitted, save_fitted
from model.options import NetworkOptions, TrainOptions
from model.sequences import Histories, merge, split_by_time
from model.windows import Corpus, Epoch, tile
from relations.errors import DataRejected, UsageError
from serving.networks.attributes import Attributes

Told = list[tuple[str, int, str | None]]


def with_column(histories: Histories, name: str, texts: list[str | None]) -> Histories:
    return replace(histories, attributes={**histories.attributes, name: Column.of(texts)})


def simply(told: Told, user: str, time: int) -> str | None:
    """The slow reference: what was last said of the user by then."""
    said = None
    for _, of, since, text in sorted((since, at, of, since, text)[1:] for at, (of, since, text) in enumerate(told)):
        if of == user and since <= time:
            said = (since, text) if said is None or since >= said[0] else said
    return None if said is None else said[1]


TOLD = st.lists(
    st.tuples(st.sampled_from("abcx"), st.integers(0, 20), st.sampled_from(["red", "ü", None])),
    max_size=8,
    unique_by=lambda row: row[:2],
)


@given(told=TOLD, times=st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=4), min_size=3, max_size=3))
def test_an_event_has_what_was_last_told_by_its_time(told: Told, times: list[list[int]]) -> None:
    users = np.array(list("abc"), dtype=object)
    user_N = np.repeat(np.arange(3), [len(of) for of in times])
    time_N = np.array([time for of in times for time in sorted(of)])
    column = as_of(users=users, user_N=user_N, time_N=time_N, told=told)
    assert column.texts() == [simply(told, users[user], time) for user, time in zip(user_N, time_N, strict=True)]


@given(told=TOLD, late=TOLD, seed=st.integers(0, 99))
def test_no_training_row_sees_its_future(told: Told, late: Told, seed: int) -> None:
    """What is told after an event changes no code of that event, of what comes before it, nor of a first event."""
    rng = np.random.default_rng(seed)
    histories = Histories(
        users=np.array(list("abc"), dtype=object),
        items=np.array(["i", "j", "k"], dtype=object),
        item_N=rng.integers(0, 3, size=12),
        behaviour_N=np.ones(12, dtype=np.int64),
        time_N=np.sort(rng.integers(0, 20, size=(3, 4)), axis=1).ravel(),
        offsets_U1=np.array([0, 4, 8, 12]),
    )
    spec = FeatureSpec((Attribute("mood", Source.USER, Kind.CATEGORY, values=("red", "ü")),))
    cut = 10
    later = [(user, since + cut + 1, text) for user, since, text in late]  # all of it after time 10
    batches = []
    for statements in ([row for row in told if row[1] <= cut], [row for row in told if row[1] <= cut] + later):
        column = as_of(users=histories.users, user_N=histories.user_N(), time_N=histories.time_N, told=statements)
        corpus = Corpus.of(replace(histories, attributes={"mood": column}), np.arange(1, 4), spec)
        epoch = Epoch.of(
            corpus, tile(corpus, length=3, rng=np.random.default_rng(0)),
            opens_U=None, batch_tokens=50, rng=np.random.default_rng(0),
        )  # fmt: skip
        seen_N = corpus.time_N <= cut
        batches.append((corpus.attribute_NA[seen_N], [codes_of_firsts(epoch, step, cut) for step in range(len(epoch))]))
    np.testing.assert_array_equal(batches[0][0], batches[1][0])
    assert batches[0][1] == batches[1][1]


def codes_of_firsts(epoch: Epoch, step: int, cut: int) -> list[list[int]]:
    """Of the first events up to `cut`, the codes of the position that they are told from."""
    batch, first_F = epoch.batch(step), epoch.firsts[step]
    at_F = batch.at_T[len(batch.at_T) - len(first_F) :]
    early_F = epoch.corpus.time_N[epoch.corpus.offsets_U1[first_F]] <= cut
    return [batch.attribute_NA[at].tolist() for at, early in zip(at_F.tolist(), early_F, strict=True) if early]


def test_columns_join_and_part_as_their_texts_do() -> None:
    first, second = Column.of(["b", None, "a"]), Column.of(["c", "a", None])
    assert (first + second).texts() == ["b", None, "a", "c", "a", None]
    assert (first + second).take(np.array([3, 0])).texts() == ["c", "b"]
    assert (Column.nothing(2) + first).texts() == [None, None, "b", None, "a"]


def told_of(texts: list[str | None]) -> Histories:
    """One event a user."""
    count = len(texts)
    none = np.zeros(count, dtype=np.int64)
    users = np.array([f"u{n:02d}" for n in range(count)], dtype=object)
    plain = Histories(users, np.array(["i"], dtype=object), none, none + 1, none, np.arange(count + 1))
    return with_column(plain, "x", texts)


def test_rare_values_share_the_unknown_code() -> None:
    histories = told_of(["b", "b", "a", "a", "a", "rare", None])
    spec = FeatureSpec.fit(histories, FeatureOptions(user={"x": Kind.CATEGORY}, k=2))
    assert spec.attributes[0].values == ("a", "b")
    assert spec.codes(histories).ravel().tolist() == [3, 3, 2, 2, 2, 1, 0]
    assert spec.sizes == {"x": 4}
    # one user who says it twice is one user
    twice = Histories(histories.users[:1], histories.items, *(np.zeros(2, dtype=np.int64),) * 3, np.array([0, 2]))
    with_two = FeatureSpec.fit(with_column(twice, "x", ["b", "b"]), FeatureOptions(user={"x": Kind.CATEGORY}, k=2))
    assert with_two.attributes[0].values == ()


@given(
    numbers=st.lists(st.none() | st.integers(-5, 5) | st.just("nan") | st.just("?"), min_size=1, max_size=30),
    buckets=st.integers(1, 6),
    k=st.integers(1, 6),
)
def test_each_bucket_holds_k_users_and_keeps_the_order(numbers: list[Any], buckets: int, k: int) -> None:
    texts = [None if number is None else str(number) for number in numbers]
    histories = told_of(texts)
    if not any(text is not None for text in texts):
        with pytest.raises(DataRejected, match="no event has it"):
            FeatureSpec.fit(histories, FeatureOptions(user={"x": Kind.NUMBER}))
        return
    spec = FeatureSpec.fit(histories, FeatureOptions(user={"x": Kind.NUMBER}, buckets=buckets, k=k))
    code_N = spec.codes(histories).ravel()
    assert all((code == 0) == (text is None) for code, text in zip(code_N, texts, strict=True))
    assert all(code == 1 for code, text in zip(code_N, texts, strict=True) if text in ("nan", "?"))
    real = sorted((int(text), code) for text, code in zip(texts, code_N, strict=True) if text not in (None, "nan", "?"))
    codes = [code for _, code in real]
    assert codes == sorted(codes)
    assert max(codes, default=0) < spec.sizes["x"] <= buckets + 2
    counts = np.bincount(codes, minlength=spec.sizes["x"])
    assert all(counts[2:] >= k)
    assert len(real) >= k or set(codes) <= {1}


@given(text=st.none() | st.sampled_from(["a", "ü", "zz", "1", "2.5", "nan", "1e400", "-3", ""]) | st.integers(-3, 9))
def test_serving_reads_a_spec_as_training_does(text: Any) -> None:
    spec = FeatureSpec(
        (
            Attribute("c", Source.USER, Kind.CATEGORY, values=("2", "a", "ü")),
            Attribute("n", Source.CONTEXT, Kind.NUMBER, edges=(1.0, 2.5)),
            Attribute("e", Source.USER, Kind.NUMBER, edges=None),
        )
    )
    said = None if text is None else str(text)
    ours = [attribute.code(said) for attribute in spec.attributes]
    told = {"c": text, "n": text, "e": text}
    assert Attributes.read(spec.stated()).row(user=told, context=told) == ours
    assert FeatureSpec.read(spec.stated()) == spec


def test_a_name_for_both_sides_or_for_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="'age' is declared for user and context"):
        FeatureOptions(user={"age": Kind.NUMBER}, context={"age": Kind.NUMBER})
    with pytest.raises(DataRejected, match="'agee': no event has it; known: x"):
        FeatureSpec.fit(told_of(["a"]), FeatureOptions(user={"agee": Kind.NUMBER}))


@pytest.fixture(scope="module")
def split_tastes(histories_of: Callable[..., Histories]) -> Histories:
    """Users of team red take only items r…, those of team blue only b…; the order is of chance."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02d}", f"{'rb'[user % 2]}{rng.integers(6)}", "view", 100 * step + user)
        for user in range(40)
        for step in range(6)
    ]
    histories = histories_of(rows)
    team = ["red" if int(user[1:]) % 2 == 0 else "blue" for user in histories.users]
    histories = with_column(histories, "team", [team[user] for user in histories.user_N()])
    return with_column(histories, "surface", ["app" if n % 3 else None for n in range(len(histories))])


DECLARED = FeatureOptions(user={"team": Kind.CATEGORY}, context={"surface": Kind.CATEGORY})


def test_attributes_tell_whose_first_item_it_is_and_survive_all_that_weights_do(
    split_tastes: Histories, tiny: NetworkOptions, brief: TrainOptions, tmp_path: Path
) -> None:
    split = split_by_time(split_tastes, cutoff_us=500 * 1_000_000)
    fitted = fit_full(split.train, network=tiny, training=replace(brief, epochs=40), features=DECLARED)
    save_fitted(fitted, tmp_path / "fitted")
    again = load_fitted(tmp_path / "fitted")
    assert again.features == fitted.features
    assert again.digest == fitted.digest
    recommender = RankerRecommender.of(again)
    # nobody's events, two teams: each gets its own items
    for code, letter in ((3, "r"), (2, "b")):  # blue, red: in ascending order from code 2
        inputs = torch.zeros((1, 1), dtype=torch.int64)
        attributes = torch.tensor([[[0, code]]])
        best = again.ranker(inputs, inputs, inputs, attributes)[0].argsort(descending=True)[:6]
        assert {again.vocabulary.items[column][0] for column in best.tolist()} == {letter}
    assert len(evaluate(recommender, split.holdout, exclude_seen=False, draws=0)) > 0
    increment = fit_increment(
        fitted,
        new=split_tastes.since(500_000_000),
        past=split.train,
        training=brief,
        increment=IncrementOptions(epochs=1),
    )
    assert increment.features == fitted.features
    assert increment.ranker.config.attributes == {"surface": 3, "team": 4}


def test_without_a_declaration_no_bit_changes(
    split_tastes: Histories, tiny: NetworkOptions, brief: TrainOptions
) -> None:
    short = replace(brief, epochs=1)
    told = fit_full(split_tastes, network=tiny, training=short)
    plain = fit_full(replace(split_tastes, attributes={}), network=tiny, training=short)
    assert (told.digest, told.losses) == (plain.digest, plain.losses)
    assert list(told.ranker.attribute_tables) == []
    # and one with attributes begins as the one without: the first loss is that of the same step
    still = replace(tiny, dropout=0.0)
    first, second = (
        fit_full(split_tastes, network=still, training=short, features=features) for features in (NO_FEATURES, DECLARED)
    )
    assert second.losses[0][1] == pytest.approx(first.losses[0][1], abs=1e-6)


def test_merged_histories_keep_what_was_said(split_tastes: Histories) -> None:
    middle = int(np.median(split_tastes.time_N))
    whole, _ = merge(split_tastes.before(middle), replace(split_tastes.since(middle), attributes={}))
    texts = whole.attributes["team"].texts()
    late = whole.time_N >= middle
    assert all(text is None for text, is_late in zip(texts, late, strict=True) if is_late)
    assert [text for text, is_late in zip(texts, late, strict=True) if not is_late] == (
        split_tastes.before(middle).attributes["team"].texts()
    )

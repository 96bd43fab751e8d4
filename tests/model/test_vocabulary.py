from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.vocabulary import Vocabulary
from relations.errors import DataRejected

IDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), unique=True)


def test_row_zero_is_padding_and_the_unknown() -> None:
    assert Vocabulary(("a", "b")).rows(["b", "?", "a"]).tolist() == [2, 0, 1]


def test_growth_without_news_is_the_same_version() -> None:
    known = Vocabulary(("a", "b"))
    assert known.grown(["b", "a"]) is known
    assert known.grown(["c", "a"]) == Vocabulary(("a", "b", "c"), 2)


@settings(deadline=None, max_examples=50)
@given(old=IDS, new=IDS)
def test_growth_preserves_rows_and_ignores_order(old: list[str], new: list[str]) -> None:
    known = Vocabulary(tuple(old))
    grown = known.grown(new)
    assert grown.rows(old).tolist() == known.rows(old).tolist()
    assert grown == known.grown(reversed(new))
    assert set(grown.items) == {*old, *new}


@settings(deadline=None, max_examples=50)
@given(old=IDS, new=IDS, gone=IDS, again=IDS)
def test_withdrawing_moves_no_row_and_is_not_for_ever(
    old: list[str], new: list[str], gone: list[str], again: list[str]
) -> None:
    known = Vocabulary(tuple(old)).withdrawing([*gone, *old[:1]])
    grown = known.grown(new)
    assert grown.rows(old).tolist() == list(range(1, len(old) + 1))
    assert grown.withdrawn == known.withdrawn  # growth keeps tombstones where they are
    assert {old[row - 1] for row in known.withdrawn} == set(old) & {*gone, *old[:1]}
    # what is withdrawn is stated whole each time: an item that is back is offered again
    assert {grown.items[row - 1] for row in grown.withdrawing(again).withdrawn} == set(grown.items) & set(again)
    assert grown.withdrawing(()) == Vocabulary(tuple(old)).grown(new)


def test_tombstones_are_in_the_file_only_where_there_are_some() -> None:
    """So that digests of models without any stay what they were."""
    assert Vocabulary(("a", "b")).to_json() == '{"version":1,"items":["a","b"]}'
    assert Vocabulary(("a", "b")).withdrawing(["b"]).to_json() == '{"version":1,"items":["a","b"],"withdrawn":[2]}'


@settings(deadline=None, max_examples=50)
@given(items=IDS)
def test_saved_and_loaded_is_equal(tmp_path_factory: pytest.TempPathFactory, items: list[str]) -> None:
    file = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    saved = Vocabulary(tuple(items), 3).withdrawing(items[::2])
    saved.save(file)
    assert Vocabulary.load(file) == saved


def test_a_repeated_id_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Vocabulary(("a", "a"))


@pytest.mark.parametrize("text", ["", "[]", '{"items": 5, "version": 1}', '{"items": ["a", "a"], "version": 1}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(DataRejected, match=r"v\.json: not a vocabulary"):
        Vocabulary.load(tmp_path / "v.json")

"""The cache of candidates by itself; what is put in and asked for is up to its keys."""

from hypothesis import given
from hypothesis import strategies as st

from serving.choosing.cache import CandidateCache, history_key, told_key
from serving.networks.histories import History

SECOND = 1_000_000


def test_a_choice_is_found_again_until_it_is_old() -> None:
    cache = CandidateCache[str](seconds=10, entries=5)
    assert cache.get("d", "key", now_us=0) is None
    cache.put("d", "key", "chosen", now_us=100 * SECOND)
    assert cache.get("d", "key", now_us=110 * SECOND) == "chosen"
    assert cache.get("d", "key", now_us=110 * SECOND + 1) is None
    assert cache.get("d", "key", now_us=99 * SECOND) is None  # of a later moment: a clock went back
    assert cache.get("d", "other", now_us=100 * SECOND) is None
    assert cache.get("e", "key", now_us=100 * SECOND) is None


def test_the_oldest_goes_first_and_a_renewed_one_is_new() -> None:
    cache = CandidateCache[int](seconds=10, entries=2)
    for number, key in enumerate(["a", "b", "a", "c"]):
        cache.put("d", key, number, now_us=0)
    assert [cache.get("d", key, now_us=0) for key in "abc"] == [2, None, 3]
    assert len(cache) == 2


def test_a_swap_drops_what_others_chose() -> None:
    cache = CandidateCache[int](seconds=10, entries=9)
    for digest in ("old", "new"):
        cache.put(digest, "key", 1, now_us=0)
    cache.keep({"new", "newer"})
    assert [cache.get(digest, "key", now_us=0) for digest in ("old", "new")] == [None, 1]


def test_zero_seconds_is_off() -> None:
    assert not CandidateCache[int](seconds=0, entries=9).on


EVENTS = st.tuples(
    st.text(max_size=3),
    st.sampled_from(["view", "click"]),
    st.integers(-(2**62), 2**62),
    st.dictionaries(st.sampled_from("ab"), st.none() | st.integers(0, 2), max_size=2),
)
HISTORIES = st.lists(EVENTS, max_size=4).map(lambda events: History(*zip(*events, strict=True)))


@given(HISTORIES, HISTORIES)
def test_keys_are_equal_for_equal_histories_only(one: History, other: History) -> None:
    assert (history_key(one) == history_key(other)) == (one == other)


def test_events_of_which_nothing_was_told_are_those_without_contexts() -> None:
    assert history_key(History(["a"], ["view"], [1], [{}])) == history_key(History(["a"], ["view"], [1]))


def test_ids_do_not_run_into_each_other() -> None:
    assert history_key(History(["ab"], ["c"], [1])) != history_key(History(["a"], ["bc"], [1]))
    assert history_key(History(["\ud800"], ["view"], [1])) != history_key(History())  # JSON may state half a character


def test_attributes_are_told_apart() -> None:
    assert told_key({}) == ""
    assert told_key({"a": 1, "b": 2}) == told_key({"b": 2, "a": 1})
    assert told_key({"a": 1}) != told_key({"a": "1"})

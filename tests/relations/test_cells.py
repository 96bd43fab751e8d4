"""Small cells are hidden, and cannot be worked out from what is shown."""

from hypothesis import given
from hypothesis import strategies as st

from relations.cells import shown, suppressed


def test_a_figure_of_fewer_than_k_users_is_hidden() -> None:
    assert [suppressed(0.25, users=users, k=3) for users in (0, 1, 2, 3)] == [0.25, "< 3", "< 3", 0.25]
    assert suppressed(1, users=1, k=1) == 1


def test_the_rest_of_the_whole_is_hidden_with_it() -> None:
    assert shown({"old": 90, "new": 4}, k=5) == set()
    assert shown({"head": 90, "tail": 30, "new": 4}, k=5) == {"head"}
    assert shown({"head": 90, "tail": 3, "new": 4}, k=5) == {"head"}  # two hidden: neither is the rest of the whole
    assert shown({"old": 5, "new": 0}, k=5) == {"old", "new"}
    assert shown({"only": 4}, k=5) == set()


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20)), st.integers(1, 9))
def test_no_single_group_is_hidden_among_others(users: dict[str, int], k: int) -> None:
    seen = shown(users, k=k)
    assert all(users[name] >= k or users[name] == 0 for name in seen)
    hidden = users.keys() - seen
    assert len(hidden) != 1 or not any(users[name] for name in seen)

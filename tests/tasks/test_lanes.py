"""Lanes change when work is done, never what comes of it."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.lanes import ahead


@given(st.lists(st.integers()), st.integers(1, 3))
def test_the_same_items_in_the_same_order(items: list[int], by: int) -> None:
    assert list(ahead(iter(items), by=by)) == items


def test_an_error_comes_where_it_would_have_been() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    lane = ahead(items())
    assert [next(lane), next(lane)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(lane)


def test_never_further_ahead_than_asked_and_gone_with_its_consumer() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1_000):
            made.append(number)
            yield number

    lane = ahead(items(), by=2)
    assert next(lane) == 0
    lane.close()  # type: ignore[attr-defined]
    assert len(made) <= 1 + 2 + 1  # taken, waiting, in hand
    assert not [thread for thread in threading.enumerate() if thread.name == "ratchet-lane"]

"""Micro-batches: who is asked together, who is refused, and that nobody gets another's answer."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest

from serving.networks.batching import Batcher, Overloaded
from serving.networks.engine import Engine
from serving.networks.histories import Asked
from serving.networks.queries import Best, Query


class Network:
    """Answers with what it was asked, when it may. `batches`: their sizes, in order."""

    def __init__(self) -> None:
        self.may, self.began = threading.Event(), threading.Event()
        self.may.set()
        self.batches: list[int] = []
        self.fails = False

    def best(self, queries: Sequence[Query], *, n: int) -> list[Best]:
        self.batches.append(len(queries))
        self.began.set()
        assert self.may.wait(30)
        if self.fails:
            raise ArithmeticError("no numbers")
        return [Best(list(query.excluded), [float(n)]) for query in queries]


def network() -> tuple[Network, Engine]:
    made = Network()
    return made, cast(Engine, made)


def query(name: int, *, length: int = 4, mask_V1: Any = None) -> Query:
    return Query(Asked([1] * length, [1] * length, [0] * length, [[]] * length), [name], mask_V1)


@contextmanager
def batcher(**other: Any) -> Iterator[Batcher]:
    made = Batcher(**{"most": 4, "budget_seconds": 60.0, "timeout_seconds": 60.0, **other})
    yield made
    made.close()


def test_an_idle_network_is_asked_at_once() -> None:
    one, engine = network()
    with batcher() as batches:
        best = asyncio.run(batches.best(engine, query(7), n=3))
    assert best == Best([7], [3.0])
    assert one.batches == [1]


async def _while_busy(one: Network, batches: Batcher, first: Any, *others: Any) -> list[Any]:
    """The first is running when the others come; all their answers."""
    one.may.clear()
    one.began.clear()
    running = asyncio.create_task(first)
    await asyncio.to_thread(one.began.wait, 30)
    waiting = [asyncio.create_task(other) for other in others]
    while batches.waiting + sum(task.done() for task in waiting) < len(waiting):
        await asyncio.sleep(0.001)
    one.may.set()
    return await asyncio.gather(running, *waiting, return_exceptions=True)


def test_what_waits_is_asked_together_and_each_gets_its_own() -> None:
    one, engine = network()
    with batcher() as batches:
        asked = [batches.best(engine, query(name), n=2) for name in range(7)]
        answers = asyncio.run(_while_busy(one, batches, *asked))
    assert [answer.rows for answer in answers] == [[name] for name in range(7)]
    assert one.batches == [1, 4, 2]  # the one that ran, then at most four together


def test_only_what_fits_goes_together_and_the_oldest_goes_first() -> None:
    one, engine = network()
    other, other_engine = network()
    mask = np.zeros(3, np.float32)
    with batcher() as batches:
        asked = [
            batches.best(engine, query(0), n=2),
            batches.best(engine, query(1), n=2),
            batches.best(other_engine, query(2), n=2),  # another network
            batches.best(engine, query(3, mask_V1=mask), n=2),  # another mask
            batches.best(engine, query(4, length=200), n=2),  # 4 events padded to 200 would cost as 200
            batches.best(engine, query(5), n=9),  # another number of rows
            batches.best(engine, query(6), n=2),
            batches.best(engine, query(7, mask_V1=mask), n=2),
        ]
        answers = asyncio.run(_while_busy(one, batches, *asked))
    assert [answer.rows for answer in answers] == [[name] for name in range(8)]
    assert one.batches == [1, 2, 2, 1, 1]  # 0 · 1 and 6 · 3 and 7 · 4 · 5
    assert other.batches == [1]


def test_a_failing_network_tells_each_asker() -> None:
    one, engine = network()
    one.fails = True
    with batcher() as batches:
        answers = asyncio.run(_while_busy(one, batches, *(batches.best(engine, query(name), n=2) for name in range(3))))
        assert all(isinstance(answer, ArithmeticError) for answer in answers)
        one.fails = False
        assert asyncio.run(batches.best(engine, query(1), n=2)).rows == [1]  # the worker lives on


def test_beyond_the_budget_a_query_is_refused_and_says_when_to_come_again() -> None:
    one, engine = network()
    with batcher(budget_seconds=0.05) as batches:
        asyncio.run(batches.best(engine, query(0), n=2))
        batches._each_seconds = 0.03  # as if a query cost 30 ms: with two in hand, a third waits 60 ms
        answers = asyncio.run(_while_busy(one, batches, *(batches.best(engine, query(name), n=2) for name in range(5))))
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 3
    assert refused[0].retry_seconds == pytest.approx(0.06)
    assert [answer.rows for answer in answers[:2]] == [[0], [1]]


def test_what_waited_too_long_is_dropped_unasked() -> None:
    one, engine = network()
    with batcher(timeout_seconds=0.05) as batches:

        async def late() -> list[Any]:
            one.may.clear()
            first = asyncio.create_task(batches.best(engine, query(0), n=2))
            await asyncio.to_thread(one.began.wait, 30)
            second = asyncio.create_task(batches.best(engine, query(1), n=2))
            await asyncio.sleep(0.1)
            one.may.set()
            return await asyncio.gather(first, second, return_exceptions=True)

        answers = asyncio.run(late())
    assert answers[0].rows == [0]
    assert isinstance(answers[1], Overloaded)
    assert one.batches == [1]


def test_who_has_gone_is_not_asked_for() -> None:
    one, engine = network()
    with batcher() as batches:

        async def gone() -> Best:
            one.may.clear()
            first = asyncio.create_task(batches.best(engine, query(0), n=2))
            await asyncio.to_thread(one.began.wait, 30)
            second = asyncio.create_task(batches.best(engine, query(1), n=2))
            while not batches.waiting:
                await asyncio.sleep(0.001)
            second.cancel()
            await asyncio.sleep(0)
            one.may.set()
            return await first

        assert asyncio.run(gone()).rows == [0]
    assert one.batches == [1]


def test_closing_finishes_what_waits() -> None:
    one, engine = network()
    made = Batcher(most=1, budget_seconds=60.0, timeout_seconds=60.0)

    async def close() -> list[Best]:
        asked = [asyncio.create_task(made.best(engine, query(name), n=2)) for name in range(3)]
        await asyncio.sleep(0)
        await asyncio.to_thread(made.close)
        return await asyncio.gather(*asked)

    assert [best.rows for best in asyncio.run(close())] == [[0], [1], [2]]
    assert one.batches == [1, 1, 1]

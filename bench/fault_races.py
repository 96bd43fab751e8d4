"""Promoters that race on one ledger: whatever they want, its champion makes one step.

Each round has a trial that waits for approval. In even rounds all promoters approve it; in odd rounds half of them roll
back instead, against the same epoch, so that whoever comes second must be refused. `python -m bench.fault_races URL` is
one promoter: it carries out what its standard input says, at the moment that it says.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

from bench.clusters import started, why_not
from bench.rows import Row, at_least, at_most, figure, skipped
from relations.errors import GateRefused
from stores.ledger import Ledger
from stores.ledger_records import Champion, VersionRecord

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[1]
FEWEST, MOST = 2, 8
LEAD_SECONDS = 0.02
"""From the order to the moment at which all of them act."""
Answer = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """`winners`: rounds with exactly one step and no answer that contradicts it. `seconds`: the slowest answer."""

    rounds: int
    winners: int
    seconds: float
    problems: tuple[str, ...]


def measure_races(folder: Path, *, rounds: int = 100, threads: int = 200) -> list[Row]:
    rows = _rows("SQLite", f"sqlite:///{folder / 'race'}.db", rounds=rounds, threads=threads)
    if why := why_not():
        return [*rows, skipped("promotion race, PostgreSQL", why)]
    with started() as cluster:
        return rows + _rows("PostgreSQL", cluster.create("race"), rounds=rounds, threads=threads)


def _rows(database: str, url: str, *, rounds: int, threads: int) -> list[Row]:
    ledger = prepared(url, versions=rounds + 2)
    among = race(ledger, url, rounds=rounds)
    agreed = race_threads(ledger, url, challenger=rounds + 2, threads=threads)
    name = f"promotion race, {database}"
    for problem in (*among.problems, *agreed.problems):
        print(f"{name}: {problem}", file=sys.stderr)
    return [
        at_least(f"{name}: rounds of {FEWEST}–{MOST} processes, one winner", among.winners, rounds, "rounds"),
        at_least(f"{name}: {threads} threads approve, one epoch step", agreed.winners, 1, "rounds"),
        at_most(f"{name}: what ledger verify finds afterwards", len(ledger.verify()), 0, "problems"),
        figure(f"{name}: slowest answer of a process", round(among.seconds, 3), "s"),
        figure(f"{name}: slowest answer of {threads} threads", round(agreed.seconds, 3), "s"),
    ]


def prepared(url: str, *, versions: int) -> Ledger:
    """Champion version 1, and as many more as there are rounds."""
    ledger = Ledger(url)
    for number in range(1, versions + 1):
        before = number - 1 or None
        ledger.record_version(VersionRecord(number, f"{number:064x}", "full", before, 1, 1, 0, True, {}, "run", T0, ""))
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    return ledger


def waiting_trial(ledger: Ledger, challenger: int) -> str:
    """A trial of that version, whose look says PROMOTE."""
    trial = f"trial-{challenger}"
    ledger.open_trial(trial, {}, challengers=[challenger], salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence(trial, {"decision": "PROMOTE"}, now=T0)
    return trial


def race(ledger: Ledger, url: str, *, rounds: int, most: int = MOST) -> Found:
    """Processes race `rounds` times, 2 to `most` of them in turn. `ledger` was `prepared` with one version more."""
    winners, slowest, problems = 0, 0.0, []
    with _promoters(url, most) as promoters:
        for number in range(rounds):
            champion = ledger.champion()
            assert champion is not None
            trial = waiting_trial(ledger, number + 2)
            some = promoters[: FEWEST + number % (most - FEWEST + 1)]
            at = time.monotonic() + LEAD_SECONDS
            for turn, promoter in enumerate(some):
                step = "rollback" if number % 2 and turn % 2 else "approve"
                order = {"step": step, "trial": trial, "epoch": champion.epoch, "actor": f"person {turn}", "at": at}
                _say(promoter, order)
            answers = [_hear(promoter) for promoter in some]
            slowest = max(slowest, *(answer["seconds"] for answer in answers))
            problem = judged(answers, before=champion, after=ledger.champion(), epochs=len(ledger.history()))
            winners += not problem
            problems += [f"round {number}: {problem}"] if problem else []
    return Found(rounds, winners, slowest, tuple(problems))


def race_threads(ledger: Ledger, url: str, *, challenger: int, threads: int) -> Found:
    """All threads approve one trial at once, each by a ledger of its own."""
    champion = ledger.champion()
    assert champion is not None
    trial = waiting_trial(ledger, challenger)
    start = Barrier(threads)

    def approve(turn: int) -> Answer:
        mine = Ledger(url)
        start.wait()
        order = {"step": "approve", "trial": trial, "epoch": champion.epoch, "actor": f"person {turn}"}
        return _answer(mine, order)

    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(approve, range(threads)))
    problem = judged(answers, before=champion, after=ledger.champion(), epochs=len(ledger.history()))
    if not problem and not all("epoch" in answer for answer in answers):
        problem = "not every thread was told who is champion now"
    slowest = max(answer["seconds"] for answer in answers)
    return Found(1, int(not problem), slowest, (problem,) if problem else ())


def judged(answers: Sequence[Answer], *, before: Champion, after: Champion | None, epochs: int) -> str:
    """What is wrong with a round; empty where the champion made one step and every answer agrees with it."""
    if after is None or (after.epoch, epochs) != (before.epoch + 1, before.epoch + 1):
        return f"from epoch {before.epoch} to {after and after.epoch}, {epochs} in the history"
    for answer in answers:
        if "error" in answer:
            return str(answer["error"])
    won = {answer["step"] for answer in answers if "epoch" in answer}
    if len(won) != 1:
        return f"{len(won)} kinds of step were said to have been made"
    if "rollback" in won and sum("epoch" in answer for answer in answers) != 1:
        return "more than one rollback was said to have been made"
    if any(
        (answer["epoch"], answer["version"]) != (after.epoch, after.version) for answer in answers if "epoch" in answer
    ):
        return "an answer names another champion than the ledger does"
    return ""


def _answer(ledger: Ledger, order: Answer) -> Answer:
    """What became of the step: the champion it reached, or that it was refused, or the error."""
    began = time.monotonic()
    told: Answer = {"step": order["step"]}
    stated: Any = {"actor": order["actor"], "reason": "a race", "now": T0}
    try:
        if order["step"] == "approve":
            reached = ledger.approve(order["trial"], **stated)
        else:
            reached = ledger.rollback(expected_epoch=order["epoch"], **stated)
        if isinstance(reached, Champion):
            told |= {"epoch": reached.epoch, "version": reached.version}
        else:
            told["error"] = f"{reached}: nobody else was to be asked"
    except GateRefused as refused:
        told["refused"] = str(refused)
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"
    return {**told, "seconds": time.monotonic() - began}


@contextmanager
def _promoters(url: str, count: int) -> Iterator[list["subprocess.Popen[str]"]]:
    promoters = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.fault_races", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for promoter in promoters:
            assert _hear(promoter) == {"ready": True}
        yield promoters
    finally:
        for promoter in promoters:
            promoter.communicate(timeout=60)


def _say(promoter: "subprocess.Popen[str]", order: Answer) -> None:
    assert promoter.stdin is not None
    promoter.stdin.write(json.dumps(order) + "\n")
    promoter.stdin.flush()


def _hear(promoter: "subprocess.Popen[str]") -> Answer:
    assert promoter.stdout is not None
    line = promoter.stdout.readline()
    if not line:
        raise RuntimeError(f"a promoter has ended with {promoter.wait()}")
    answer: Answer = json.loads(line)
    return answer


def main(url: str) -> None:
    ledger = Ledger(url)
    ledger.champion()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        time.sleep(max(0.0, order["at"] - time.monotonic()))  # one clock for all processes of a machine
        print(json.dumps(_answer(ledger, order)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""One training at a time, and who still lives: as other processes see it, killed ones among them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relations.errors import TrainingUnderWay
from stores.home import Home
from stores.turns import lives, sign_of_life, sweep_signs, training_turn

HOLDER = """
import sys, time
from pathlib import Path
from stores.home import Home
from stores.turns import sign_of_life, training_turn
home = Home.open(Path(sys.argv[1]))
with training_turn(home, who="full-retrain run brave-otter"):
    print(sign_of_life(home), flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(home: Home) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has the turn, and its sign of life."""
    command = [sys.executable, "-c", HOLDER, str(home.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_newer_training_is_told_who_has_the_turn_and_a_kill_frees_it(home: Home) -> None:
    with holder(home) as (process, sign):
        assert lives(home, sign)
        told = rf"full-retrain run brave-otter \(process {process.pid} on .*, since .* UTC\) is at work; one training"
        with pytest.raises(TrainingUnderWay, match=told), training_turn(home, who="me"):
            pass
        process.kill()
        process.wait()
        assert not lives(home, sign)
        with training_turn(home, who="me"):
            pass


def test_the_turn_is_free_after_a_training_that_failed_and_within_one_process_too(home: Home) -> None:
    with pytest.raises(ValueError, match="broken"), training_turn(home, who="first"):
        raise ValueError("broken")
    with training_turn(home, who="second"):
        with pytest.raises(TrainingUnderWay, match="second"), training_turn(home, who="third"):
            pass
        (home.run / "training.txt").unlink()  # the moment between the lock and the note
        with pytest.raises(TrainingUnderWay, match="another training is at work"), training_turn(home, who="third"):
            pass
    with training_turn(home, who="fourth"):
        pass


def test_one_sign_a_process_and_those_of_the_dead_are_swept_when_old(home: Home) -> None:
    import os

    assert sign_of_life(home) == sign_of_life(home)
    mine = home.run / "processes" / sign_of_life(home)
    dead, young = mine.with_name("h-1-dead.lock"), mine.with_name("h-2-young.lock")
    for file in (dead, young):
        file.touch()
    for file in (mine, dead):
        os.utime(file, (0, 0))
    sweep_signs(home)
    assert (mine.exists(), dead.exists(), young.exists()) == (True, False, True)
    assert lives(home, mine.name)
    assert not lives(home, young.name)
    assert not lives(home, "never-there.lock")

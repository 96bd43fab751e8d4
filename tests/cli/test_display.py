"""Progress where there is no terminal: a line now and then, with pace and time left."""

import pytest

from cli.display import lines


def test_a_line_every_ten_seconds_with_pace_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """100 steps, one a second: after 10 s 10 are done, and 90 are left at 1 s each."""
    now = [0.0]
    show = lines(clock=lambda: now[0])
    for step in range(100):
        now[0] = float(step)
        show("training", step, 100, "1,200 targets/s")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[:2] == [
        "training 10/100 · 1,200 targets/s · 90 s left",
        "training 20/100 · 1,200 targets/s · 80 s left",
    ]
    assert len(told.err.splitlines()) == 9


def test_short_work_gets_no_line_and_every_work_its_own_clock(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    show = lines(clock=lambda: now[0])
    for step in (1, 2, 3):
        show("evaluation", step, 3, "")
    now[0] = 11.0
    show("evaluation", 1, 3, "")
    assert capsys.readouterr().err == ""
    now[0] = 22.0
    show("evaluation", 1, 3, "")
    assert capsys.readouterr().err == "evaluation 1/3\n"  # nothing done in this time: none to reckon with

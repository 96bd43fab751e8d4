"""Progress for a person: a bar with pace and time left on a terminal, lines in a log, nothing with --json."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.console import Context

LINE_SECONDS = 10.0
"""Between two lines about the same work."""


@contextmanager
def progress_bars(context: Context) -> Iterator[None]:
    """Show what `tasks.progress` reports while the block runs."""
    from tasks.progress import listening

    if context.as_json:
        yield
        return
    if not sys.stderr.isatty():
        with listening(lines()):
            yield
        return
    with bars() as progress:
        shown: dict[str, TaskID] = {}

        def show(work: str, done: int, total: int, pace: str) -> None:
            if work not in shown:
                shown[work] = progress.add_task(work, total=total, pace="")
            progress.update(shown[work], completed=done, total=total, pace=pace)
            if done >= total:
                progress.remove_task(shown.pop(work))

        with listening(show):
            yield


def bars() -> Progress:
    from rich.console import Console

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def lines(clock: Callable[[], float] = time.monotonic) -> Callable[[str, int, int, str], None]:
    """A listener that writes to stderr, at most one line in `LINE_SECONDS` for a work; short work gets none."""
    begun: dict[str, tuple[float, int]] = {}
    told: dict[str, float] = {}

    def show(work: str, done: int, total: int, pace: str) -> None:
        now = clock()
        began, at = begun.setdefault(work, (now, done))
        if done >= total:
            begun.pop(work)
            told.pop(work, None)
        elif now - told.setdefault(work, now) >= LINE_SECONDS:
            told[work] = now
            left = (now - began) / (done - at) * (total - done) if done > at else 0.0
            parts = [f"{work} {done:,}/{total:,}", pace, f"{left:,.0f} s left" if left else ""]
            click.echo(" · ".join(part for part in parts if part), err=True)

    return show

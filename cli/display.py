"""Progress for a person: a bar with rate and time left on a terminal, nothing in a log or with --json."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.console import Context


@contextmanager
def progress_bars(context: Context) -> Iterator[None]:
    """Show what `tasks.progress` reports while the block runs."""
    from tasks.progress import listening

    if context.as_json or not sys.stderr.isatty():
        yield
        return
    with bars() as progress:
        shown: dict[str, TaskID] = {}

        def show(work: str, done: int, total: int) -> None:
            if work not in shown:
                shown[work] = progress.add_task(work, total=total)
            progress.update(shown[work], completed=done, total=total)
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
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )

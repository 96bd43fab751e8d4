"""What the demo says while it works: a line a step, and a bar where it takes long."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from cli.display import bars
from tasks.progress import listening


class Narrator:
    """Lines with elapsed time on stdout; bars on a terminal. Silent where `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def done(self, line: str) -> None:
        self._say(f"✓ {line}")

    def step(self, line: str) -> None:
        self._say(f"▸ {line}")

    def warn(self, line: str) -> None:
        self._say(f"! {line}")

    def detail(self, line: str) -> None:
        if not self.quiet:
            click.echo(f"           {line}")

    @contextmanager
    def working(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A bar named `what`. Yields a function that sets how much of `total` is done; what tasks report shows too."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda done: None
            return
        with bars() as progress:
            bar = progress.add_task(what, total=total, pace="")

            def show(work: str, done: int, of: int, pace: str) -> None:
                progress.update(bar, description=f"{what}: {work}", completed=done, total=of, pace=pace)

            with listening(show):
                yield lambda done: progress.update(bar, completed=done)

    def _say(self, line: str) -> None:
        if not self.quiet:
            click.echo(f"{self.seconds:6.0f} s  {line}")

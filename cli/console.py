"""What every command shares: its options, its one JSON object, its exit code, its errors."""

import functools
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click

from relations.errors import RatchetError
from stores.clock import home_now
from stores.home import Home
from stores.sections import MOST_DAYS
from stores.settings import Settings, find_settings, load_settings


@dataclass(frozen=True)
class Result:
    """What a command answers: `data` for --json, `lines` for a person."""

    data: dict[str, Any]
    lines: tuple[str, ...] = ()
    exit_code: int = 0


@dataclass(frozen=True)
class Context:
    """Where a command works. `say` reports progress to a person and is silent with --json."""

    root: Path
    config: Path | None
    as_json: bool
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def home(self) -> Home:
        return Home.open(self.root)

    @property
    def config_file(self) -> Path | None:
        return find_settings(self.root, self.config)

    @property
    def settings(self) -> Settings:
        if "settings" not in self._cache:
            self._cache["settings"] = load_settings(self.config_file)
        settings: Settings = self._cache["settings"]
        return settings

    @property
    def now(self) -> datetime:
        return home_now(self.home, self.settings)

    @property
    def config_argument(self) -> str | None:
        """The settings file as flows and servers take it, wherever they work."""
        file = self.config_file
        return None if file is None else str(file.absolute())

    def say(self, line: str) -> None:
        if not self.as_json:
            click.echo(line)


class JsonCommand(click.Command):
    """With --json arguments that cannot be read are one object on stdout too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        as_json = "--json" in args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if as_json:
                click.echo(_object({"error": error.format_message(), "kind": "UsageError"}))
            raise


class Amount(click.FloatRange):
    """A number in its range; NaN, which is in every range of click's, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is no number", param, ctx)
        return found


DAYS = Amount(0, MOST_DAYS, min_open=True)
HOURS = Amount(0, MOST_DAYS * 24, min_open=True)
PORT = click.IntRange(0, 65_535)


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Result]], click.Command]:
    """A `ratchet` command whose function takes a Context and answers a Result."""

    def decorate(function: Callable[..., Result]) -> click.Command:
        @click.command(name, cls=JsonCommand, **attributes)
        @click.option(
            "--home",
            "root",
            type=click.Path(path_type=Path),
            default=Path(".ratchet"),
            show_default=True,
            help="Folder of all state.",
        )
        @click.option(
            "--config",
            type=click.Path(path_type=Path),
            help="Settings file; default: ratchet.toml in the home, else here.",
        )
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
        @functools.wraps(function)
        def run(*, root: Path, config: Path | None, as_json: bool, **arguments: Any) -> None:
            context, called = Context(root, config, as_json), _called()
            signal.signal(signal.SIGTERM, _interrupt)  # so that what was started is stopped
            with _answering(as_json) as answer:
                try:
                    result = function(context, **arguments)
                except RatchetError as error:
                    result = Result({"error": str(error), "kind": type(error).__name__}, (), error.exit_code)
                    click.secho(f"{called}: {error}", err=True, fg="red")
                except OSError as error:
                    place = f"{error.filename}: " if error.filename else ""
                    result = Result({"error": f"{place}{error.strerror or error}", "kind": "OSError"}, (), 6)
                    click.secho(f"{called}: {place}{error.strerror or error}", err=True, fg="red")
                except KeyboardInterrupt:
                    result = Result({"error": "interrupted", "kind": "KeyboardInterrupt"}, (), 130)
                except Exception as error:
                    traceback.print_exc()
                    click.secho(f"{called}: a bug of ours, please report it with the lines above", err=True)
                    result = Result({"error": repr(error), "kind": "bug"}, (), 1)
                answer(result)
            # Not sys.exit from inside libraries' threads: leave at once, with everything flushed.
            raise SystemExit(result.exit_code)

        made: click.Command = run
        return made

    return decorate


def _called() -> str:
    """The command as it was called, groups included: `ratchet people add`."""
    names: list[str] = []
    here: click.Context | None = click.get_current_context()
    while here is not None and here.parent is not None:
        names.insert(0, here.info_name or "")
        here = here.parent
    return " ".join(["ratchet", *names])


def _object(data: dict[str, Any]) -> str:
    """One line of JSON. Times are ISO 8601; NaN and infinities, which JSON does not have, are null."""
    return json.dumps(_finite(data), default=_stated, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _stated(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _answering(as_json: bool) -> Iterator[Callable[[Result], None]]:
    """With --json, whatever libraries print goes to stderr, and stdout gets the one object."""
    if not as_json:

        def tell(result: Result) -> None:
            for line in result.lines:
                click.echo(line)

        yield tell
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    out: IO[str] = os.fdopen(kept, "w", encoding="utf-8", errors="backslashreplace")
    try:
        yield lambda result: print(_object(result.data), file=out, flush=True)
    finally:
        sys.stdout.flush()
        os.dup2(out.fileno(), 1)
        out.close()

"""`ratchet forget` and `ratchet privacy`: what a person may ask of the data."""

from pathlib import Path
from typing import Any

import click

from cli.console import Context, Result, command
from cli.identity import allowed
from relations.errors import UsageError
from stores.people import Role

# These do not run as Prefect flows: Prefect keeps the parameters of its runs, and here they name people.


@command("forget", short_help="Forget users: rows, history, derived state.")
@click.argument("user", required=False)
@click.option("--file", "file", type=click.Path(path_type=Path), help="A file of user ids, one a line, in UTF-8.")
@click.option("--as", "actor", default="", help="The admin who does it, kept on the record; default: your token's.")
@click.option("--reason", default="asked to be forgotten", show_default=True, help="Kept on the record; names nobody.")
def forget(context: Context, *, user: str | None, file: Path | None, actor: str, reason: str) -> Result:
    """Forget USER, an id as your application knows it: every row, in every version of every table, and what is
    derived from them. Files a receipt that names nobody and lists the models that learnt from the user.

    Many at once (--file) cost little more than one.
    """
    users = ([] if user is None else [user]) + ([] if file is None else _ids(file))
    if not users:
        raise UsageError("nobody is named; give a USER, or a --file with one id a line")
    who = allowed(context, actor, Role.ADMIN, what="forget users")
    from tasks.forgetting import forget_users

    context.say("taking in what waits, then forgetting …")
    receipt = forget_users(context.home, context.settings, users, actor=who, reason=reason, now=context.now)
    return Result(receipt, tuple(_forgotten(receipt)))


@click.group("privacy")
def privacy() -> None:
    """Rotate the key of the pseudonyms, opt users out, list what must be retired."""


@command("rotate")
@click.option("--as", "actor", required=True, help="The admin who does it.")
@click.option("--reason", required=True)
def rotate(context: Context, *, actor: str, reason: str) -> Result:
    """Draw a new key and give every stored pseudonym its new form. Refused while a trial is open."""
    who = allowed(context, actor, Role.ADMIN, what="rotate the pseudonyms' key")
    from tasks.rotating import rotate_keys

    context.say("taking in what waits, then rewriting the tables …")
    receipt = rotate_keys(context.home, context.settings, actor=who, reason=reason, now=context.now)
    line = f"pseudonyms are of key version {receipt['key_version']}; back up {context.home.keys}, older keys included"
    return Result(receipt, (line,))


@command("opt-out")
@click.argument("user")
def opt_out(context: Context, *, user: str) -> Result:
    """From the next training on, learn nothing from USER's events."""
    return _consent(context, user, out=True)


@command("opt-in")
@click.argument("user")
def opt_in(context: Context, *, user: str) -> Result:
    """Take an opt-out back."""
    return _consent(context, user, out=False)


@command("status")
def status(context: Context) -> Result:
    """The key version in force, receipts, and the models that must be replaced because a user was forgotten."""
    from stores.privacy import receipts
    from stores.pseudonyms import newest_version
    from tasks.forgetting import models_to_retire

    home = context.home
    filed, models = receipts(home), models_to_retire(home, context.settings)
    champion = next((model["version"] for model in models if model["champion"]), None)
    data = {"key_version": newest_version(home.keys), "receipts": filed, "models_to_retire": models}
    lines = [f"pseudonym key version {data['key_version']}", f"{len(filed)} receipts in {home.reports}"]
    lines += [f"v{model['version']} learnt from a forgotten user: replace by {_day(model)}" for model in models]
    if champion is not None:
        lines.append(f"v{champion} serves: ratchet train --mode full, then a trial")
    return Result(data, tuple(lines))


def _consent(context: Context, user: str, *, out: bool) -> Result:
    from tasks.consenting import set_opt_out

    changed = set_opt_out(context.home, context.settings, user, out=out, now=context.now)
    state = "opted out: the next training leaves this user's events out" if out else "opted in"
    return Result({"opted_out": out, "changed": changed}, (state if changed else f"already {state}",))


def _ids(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: offset {error.start}: not UTF-8; write one user id a line as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}; check the path") from error


def _forgotten(receipt: dict[str, Any]) -> list[str]:
    rows = " · ".join(f"{count:,} {table}" for table, count in receipt["rows"].items() if count)
    lines = [f"receipt {receipt['id']}: {receipt['users']} users, rows: {rows or 'none was there'}"]
    if receipt["models"]:
        versions = ", ".join(f"v{model['version']}" for model in receipt["models"])
        lines.append(f"{versions} learnt from them: replace by {receipt['retire_by'][:10]}")
        lines.append(f"the next full retrain is due by {receipt['next_full_retrain'][:10]}")
    lines += [f"{folder} is unfinished and may have read the rows" for folder in receipt["unfinished_trainings"]]
    return lines


def _day(model: dict[str, Any]) -> str:
    return str(model["retire_by"])[:10]


for _command in (rotate, opt_out, opt_in, status):
    privacy.add_command(_command)

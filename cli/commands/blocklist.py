"""`ratchet blocklist`: items that nobody may be shown, from now on and on every path."""

import re
from dataclasses import asdict

import click

from cli.console import Context, Result, command
from cli.identity import identified, identified_or_stated
from stores import blocklist as store


@click.group("blocklist")
def blocklist() -> None:
    """Items that nobody may be shown, whatever a model says."""


@command("add")
@click.argument("items", nargs=-1, required=True, metavar="ITEM…")
@click.option("--as", "actor", required=True, help="Who blocks them.")
@click.option("--reason", required=True, help="Kept with the list, and in the ledger for good.")
def add(context: Context, *, items: tuple[str, ...], actor: str, reason: str) -> Result:
    """Show these items to nobody: servers obey within [serving] poll_seconds, without a restart."""
    home, who = context.home, identified_or_stated(context, actor)
    fresh = store.add(home.blocklist, items, by=who.name, reason=reason, now=context.now)
    lines = [f"{item}: blocked" for item in map(_printable, fresh)]
    lines += [f"{_printable(item)}: was blocked already" for item in items if item not in fresh]
    return _answer(context, {"blocked": list(fresh)}, [*lines, *([who.warning] if who.warning else [])])


@command("remove")
@click.argument("items", nargs=-1, required=True, metavar="ITEM…")
@click.option("--as", "actor", required=True, help="Who lets them be shown again.")
@click.option("--reason", required=True, help="Kept in the ledger for good.")
def remove(context: Context, *, items: tuple[str, ...], actor: str, reason: str) -> Result:
    """Take items off the list."""
    home, who = context.home, identified(context, actor)
    gone = store.remove(home.blocklist, items, by=who, reason=reason, now=context.now)
    lines = [f"{item}: may be shown again" for item in map(_printable, gone)]
    lines += [f"{_printable(item)}: was not blocked" for item in items if item not in gone]
    return _answer(context, {"unblocked": list(gone)}, lines)


@command("list")
def list_(context: Context) -> Result:
    """What is blocked, by whom, since when and why."""
    found = store.read(context.home.blocklist).items
    lines = [
        f"{_printable(item)}  since {block.when[:19]} by {_printable(block.by)}: {_printable(block.reason)}"
        for item, block in sorted(found.items())
    ]
    data = {"items": [{"item_id": item, **asdict(block)} for item, block in sorted(found.items())]}
    return Result(data, tuple(lines) or ("nothing is blocked",))


def _answer(context: Context, data: dict[str, object], lines: list[str]) -> Result:
    """The list is written and serves; the ledger is told now, or by the next command where it cannot be."""
    problem = _record(context)
    data |= {"recorded": problem is None, "problem": problem}
    if problem is not None:
        lines.append(f"in force, but not in the ledger yet: {problem}; the next blocklist command tells it")
    return Result(data, tuple(lines))


def _record(context: Context) -> str | None:
    """Enter in the ledger what it was not told; what went wrong, if anything. Nothing here may undo a block."""
    home = context.home
    acts = store.read(home.blocklist).unrecorded
    if not acts:
        return None
    try:
        from stores.ledger import Ledger

        ledger = Ledger.of(home, context.settings)
        for act in acts:
            ledger.note(
                actor=act.by,
                action=act.action,
                subject=f"items {act.id}",
                payload={"items": list(act.items), "reason": act.reason, "when": act.when},
                now=context.now,
            )
    except Exception as error:  # whatever the database's driver raises
        return str(error)
    store.recorded(home.blocklist, acts)
    return None


def _printable(text: str) -> str:
    """Ids come from anywhere; what they hold does not steer the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


for _command in (add, remove, list_):
    blocklist.add_command(_command)

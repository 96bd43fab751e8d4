"""`ratchet quarantine`: rows that were held back: why, and what becomes of them."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from cli.console import Context, Result, command
from cli.identity import identified


@click.group("quarantine")
def quarantine() -> None:
    """Rows that were held back: why, and what becomes of them."""


def _pairs(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    found = {}
    for value in values:
        old, _, new = value.partition("=")
        if not old or not new:
            raise click.BadParameter(f"{value!r}: write OLD=NEW, the source's name first", ctx, param)
        found[old] = new
    return found


@command("list")
@click.option("--all", "settled", is_flag=True, help="With rows that were replayed or dropped.")
def list_(context: Context, *, settled: bool) -> Result:
    """Deliveries with rows in quarantine."""
    from stores.lake import Lake
    from stores.quarantine import listing

    found = listing(Lake(context.home.lake), settled=settled)
    lines = []
    for held in found:
        fate = held.state if held.settled_by is None else f"{held.state} by {held.settled_by}"
        why = ", ".join(f"{count} × {expectation}" for expectation, count in held.reasons)
        lines.append(f"{held.delivery_id}  {held.rows} rows of {held.kind} from {held.source}, {fate}: {why}")
    return Result({"deliveries": [asdict(held) for held in found]}, tuple(lines) or ("nothing is in quarantine",))


@command("explain")
@click.argument("delivery", required=False)
def explain(context: Context, *, delivery: str | None) -> Result:
    """Each broken expectation with its column, count and three examples; of DELIVERY, or of all.

    DELIVERY is a delivery's id or enough of its beginning.
    """
    from stores.lake import Lake
    from stores.quarantine import explain as explain_rows
    from stores.quarantine import find

    lake = Lake(context.home.lake)
    found = explain_rows(lake, None if delivery is None else find(lake, delivery))
    lines: list[str] = []
    reasons = []
    for each in found:
        examples = [_text(example)[:200] for example in each.examples]
        lines.append(f"{each.rows:6} × {_place(asdict(each))}: {each.message}")
        lines += [f"           {_printable(example)}" for example in examples]
        reasons.append({**asdict(each), "examples": examples})
    return Result({"reasons": reasons}, tuple(lines) or ("nothing is in quarantine",))


@command("show")
@click.argument("delivery")
@click.option(
    "--row", "rows", type=int, multiple=True, help="Number of a row in its delivery, from 0. May be repeated."
)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Rows at most.")
def show(context: Context, *, delivery: str, rows: tuple[int, ...], limit: int) -> Result:
    """The rows of DELIVERY as they are kept, with each reason, and what became of them."""
    from stores.lake import Lake
    from stores.quarantine import find
    from stores.quarantine import show as show_rows

    lake = Lake(context.home.lake)
    found, total = show_rows(lake, find(lake, delivery), rows=rows, limit=limit)
    lines: list[str] = []
    shown = []
    for row in found.to_pylist():
        raw = _text(row["raw"])
        fate = row["state"] if row["settled_by"] is None else f"{row['state']} by {row['settled_by']}"
        user = f", user {row['user']}" if row["user"] else ""
        lines.append(f"row {row['row']} ({row['format']}{user}), {fate}: {_printable(raw[:1_000])}")
        lines += [f"    {_place(why)}: {why['message']}" for why in row["reasons"]]
        shown.append({**row, "raw": raw})
    if total > len(shown):
        lines.append(f"{total - len(shown)} more; see --limit and --row")
    return Result({"rows": shown, "total": total}, tuple(lines))


@command("replay", short_help="Deliver open rows again.")
@click.argument("delivery", required=False)
@click.option(
    "--map",
    "columns",
    metavar="OLD=NEW",
    multiple=True,
    callback=_pairs,
    help="The source's column is this one of Ratchet's.",
)
@click.option(
    "--behaviour",
    "behaviours",
    metavar="OLD=NEW",
    multiple=True,
    callback=_pairs,
    help="The source's behaviour is this one.",
)
@click.option("--kind", type=click.Choice(["events", "items", "users", "exposures"]), help="Only deliveries of this.")
@click.option("--dry-run", is_flag=True, help="Give the verdict and change nothing.")
def replay(
    context: Context,
    *,
    delivery: str | None,
    columns: dict[str, str],
    behaviours: dict[str, str],
    kind: str | None,
    dry_run: bool,
) -> Result:
    """Deliver the open rows of DELIVERY (or of all) again, under the settings of today.

    --map and --behaviour change the mapping for this once; write a lasting one in ratchet.toml. Rows that fail again
    stay in quarantine.
    """
    from tasks.repairing import replay_rows

    home, settings = context.home, context.settings
    repairs = replay_rows(
        delivery,
        home=home,
        settings=settings,
        now=context.now,
        columns=columns,
        behaviours=behaviours,
        kind=kind,
        dry_run=dry_run,
    )
    receipts = [repair.receipt for repair in repairs if repair.receipt is not None]
    if not dry_run and any(receipt.accepted and receipt.kind == "events" for receipt in receipts):
        from tasks.refreshing import refresh_serving

        refresh_serving(home, settings)
    lines: list[str] = []
    for repair in repairs:
        would = "would be " if dry_run else ""
        lines.append(f"{repair.delivery_id}: {repair.replayed} rows {would}replayed, {repair.left} left open")
        receipt = repair.receipt
        if receipt is not None:
            lines += [f"    {rows} × {why}: {receipt.examples[why]}" for why, rows in receipt.reasons]
            lines += [f"    {said}" for said in (receipt.message, *receipt.warnings) if said]
        if repair.illegible:
            lines.append(
                f"    {repair.illegible} rows cannot be replayed: they could not be read, and without their file's "
                f"header nothing can; mend the file and deliver it again, then: "
                f'ratchet quarantine drop {repair.delivery_id} --reason "delivered again"'
            )
    replayed = sum(repair.replayed for repair in repairs)
    failed = any(repair.receipt is not None and repair.left > repair.illegible for repair in repairs)
    data = {"replays": [repair.as_json() for repair in repairs], "replayed": replayed, "dry_run": dry_run}
    return Result(data, tuple(lines) or ("nothing to replay",), 3 if failed and not replayed else 0)


@command("drop", short_help="Decide against open rows.")
@click.argument("delivery")
@click.option("--reason", required=True, help="Why they are not wanted; the history keeps it.")
@click.option("--as", "actor", default="", help="Who decides; default: your token's.")
@click.option(
    "--row", "rows", type=int, multiple=True, help="Number of a row in its delivery, from 0. May be repeated."
)
def drop(context: Context, *, delivery: str, reason: str, actor: str, rows: tuple[int, ...]) -> Result:
    """Decide against open rows of DELIVERY. They stay visible: ratchet quarantine list --all."""
    who = identified(context, actor)
    from tasks.repairing import drop_rows

    delivery_id, dropped = drop_rows(delivery, home=context.home, by=who, reason=reason, rows=rows)
    data = {"delivery_id": delivery_id, "dropped": dropped, "by": who, "reason": reason}
    return Result(data, (f"{delivery_id}: {dropped} rows dropped" if dropped else "no open row to drop",))


def _place(why: dict[str, Any]) -> str:
    return f"{why['expectation']} on {why['column'] or 'the row'}"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _printable(text: str) -> str:
    """Rows come from anywhere; what they hold does not steer the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


for each in (list_, explain, show, replay, drop):
    quarantine.add_command(each)

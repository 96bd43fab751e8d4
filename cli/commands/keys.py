"""`ratchet keys`: who may use the recommend API."""

from datetime import UTC, datetime, timedelta

import click

from cli.console import DAYS, Context, Result, command

# `stores.api_keys.Role`, which is imported when a command runs.
ROLES = ("recommend", "feedback", "admin")


@click.group("keys")
def keys() -> None:
    """Make, list and revoke keys of the recommend API. The first one closes it to requests without a key."""


@command("add")
@click.argument("name")
@click.option("--role", "roles", type=click.Choice(ROLES), multiple=True, required=True, help="May be repeated.")
@click.option("--days", type=DAYS, help="Expires after this long; default: never.")
def add(context: Context, *, name: str, roles: tuple[str, ...], days: float | None) -> Result:
    """Make a key for NAME, the application or person that will hold it. It is shown this once."""
    from stores.api_keys import Role, add_key

    lifetime = None if days is None else timedelta(days=days)
    key, shown = add_key(
        context.home.api_keys, name=name, roles=[Role(role) for role in roles], lifetime=lifetime, now=_now()
    )
    until = "" if key.expires is None else f", until {key.expires:%Y-%m-%d %H:%M} UTC"
    lines = (
        shown,
        f"key {key.id} of {key.name}: {', '.join(sorted(key.roles))}{until}; it is shown this once",
        "send it as `Authorization: Bearer …`; a running server takes it within [serving] poll_seconds",
    )
    return Result(key.stated() | {"key": shown}, lines)


@command("list")
def list_(context: Context) -> Result:
    """All keys that were ever made, without their secrets."""
    from stores.api_keys import read_keys

    now = _now()
    found = [(key, key.ended(now) or "in force") for key in read_keys(context.home.api_keys)]
    lines = tuple(
        f"{key.id}  {state:9} {', '.join(sorted(key.roles)):26} made {key.created:%Y-%m-%d}"
        f"{f', until {key.expires:%Y-%m-%d}' if key.expires else ''}  {key.name}"
        for key, state in found
    )
    return Result(
        {"keys": [key.stated() | {"state": state} for key, state in found]},
        lines or ("no key was made: the API is open to this machine, and to this machine only",),
    )


@command("revoke")
@click.argument("key")
def revoke(context: Context, *, key: str) -> Result:
    """End KEY, an id or the name of a key in force. The API stays closed when no key is left."""
    from stores.api_keys import revoke_key

    ended = revoke_key(context.home.api_keys, key, now=_now())
    line = f"key {ended.id} of {ended.name} is revoked; a running server refuses it within [serving] poll_seconds"
    return Result(ended.stated(), (line,))


def _now() -> datetime:
    # Not the home's clock: a simulation's time says nothing about when a real key was made.
    return datetime.now(UTC)


for _command in (add, list_, revoke):
    keys.add_command(_command)

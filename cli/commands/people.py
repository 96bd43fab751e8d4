"""`ratchet people`: who may submit, approve and administer, and how they prove who they are."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from cli.console import Amount, Context, Result, command
from cli.identity import VARIABLE, identified, read_password, signed_in
from relations.errors import UsageError
from stores.people import Person, Role, check_name

if TYPE_CHECKING:
    from stores.ledger import Ledger

DAYS = 90.0
ROLE = click.option(
    "--role", "roles", type=click.Choice([role.value for role in Role]), multiple=True, help="May be repeated."
)
AS = click.option("--as", "actor", default="", help="The admin who does it; default: whose token the shell holds.")
REASON = click.option("--reason", required=True, help="Kept in the ledger for good.")
STDIN = click.option("--password-stdin", "from_stdin", is_flag=True, help="Read it from the first line of stdin.")


@click.group("people")
def people() -> None:
    """Who may submit, approve and administer; their passwords, tokens and one-time codes."""


@command("first")
@click.argument("name")
@ROLE
@STDIN
@click.option("--no-password", is_flag=True, help="With a token alone: nothing to sign in to the console with.")
@click.option("--token", "with_token", is_flag=True, help=f"Make a token too, good for {DAYS:.0f} days.")
def first(
    context: Context, *, name: str, roles: tuple[str, ...], from_stdin: bool, no_password: bool, with_token: bool
) -> Result:
    """Make NAME the first admin; possible only while there is none. Without --role, with all three roles."""
    cleaned = check_name(name)
    if no_password and (from_stdin or not with_token):
        raise UsageError("--no-password goes with --token, and not with --password-stdin")
    ledger = _ledger(context)
    password = None if no_password else read_password(cleaned, from_stdin=from_stdin)
    given = frozenset(map(Role, roles or tuple(Role)))
    person = ledger.add_first_admin(cleaned, password=password, now=_now(), roles=given)
    data, lines = person.stated(), [_told(person)]
    if with_token:
        more, told = _token(context, person.name, label="first", days=DAYS, actor=person.name)
        data, lines = data | more, [*lines, *told]
    lines.append("add a second admin soon: `ratchet people add NAME --role admin`; alone, one who leaves leaves nobody")
    return Result(data, tuple(lines))


@command("add")
@click.argument("name")
@ROLE
@STDIN
@AS
def add(context: Context, *, name: str, roles: tuple[str, ...], from_stdin: bool, actor: str) -> Result:
    """Add NAME with one role or more. Without --password-stdin there is no password yet: give them a token, with which
    they set one themselves.
    """
    cleaned, who = check_name(name), identified(context, actor)
    password = read_password(cleaned, from_stdin=True) if from_stdin else None
    given = frozenset(map(Role, roles))
    person = _ledger(context).add_person(cleaned, roles=given, password=password, actor=who, now=_now())
    then = () if password else (f"a token lets them in: `ratchet people token {_quoted(person.name)}`",)
    return Result(person.stated(), (_told(person), *then))


@command("roles")
@click.argument("name")
@ROLE
@AS
def roles_(context: Context, *, name: str, roles: tuple[str, ...], actor: str) -> Result:
    """Give NAME these roles and no others. Their sessions in the console end."""
    who = identified(context, actor)
    person = _ledger(context).set_roles(name, roles=frozenset(map(Role, roles)), actor=who, now=_now())
    return Result(person.stated(), (_told(person),))


@command("password")
@click.argument("name")
@STDIN
@click.option("--as", "actor", default="", help="Who sets it: NAME or an admin; default: whose token the shell holds.")
def password_(context: Context, *, name: str, from_stdin: bool, actor: str) -> Result:
    """Set the password of NAME, for the console. Their sessions end, their tokens stay."""
    who = identified(context, actor)
    password = read_password(name, from_stdin=from_stdin)
    person = _ledger(context).set_password(name, password, actor=who, now=_now())
    return Result(person.stated(), (f"{person.name} has a new password; their sessions have ended",))


@command("disable")
@click.argument("name")
@AS
@REASON
def disable(context: Context, *, name: str, actor: str, reason: str) -> Result:
    """Let NAME in no more: password, tokens and sessions end at once. The last admin stays."""
    who = identified(context, actor)
    person = _ledger(context).disable_person(name, actor=who, reason=reason, now=_now())
    return Result(person.stated(), (_told(person),))


@command("enable")
@click.argument("name")
@AS
@REASON
def enable(context: Context, *, name: str, actor: str, reason: str) -> Result:
    """Take a disabling back: NAME has the roles of before, and needs a new token or password."""
    who = identified(context, actor)
    person = _ledger(context).enable_person(name, actor=who, reason=reason, now=_now())
    return Result(person.stated(), (_told(person),))


@command("token")
@click.argument("name")
@click.option("--label", default="", help="What it is for, as `laptop`.")
@click.option("--days", type=Amount(0, 366, min_open=True), default=DAYS, show_default=True, help="Until it expires.")
@click.option(
    "--as", "actor", default="", help=f"NAME or an admin; default: {VARIABLE}'s, or without one NAME, by password."
)
@STDIN
def token(context: Context, *, name: str, label: str, days: float, actor: str, from_stdin: bool) -> Result:
    """Make a token, with which NAME gives commands. It is shown this once."""
    who = signed_in(context, name, from_stdin=from_stdin) or identified(context, actor)
    data, lines = _token(context, name, label=label, days=days, actor=who)
    return Result(data, tuple(lines))


@command("revoke")
@click.argument("token_id")
@AS
def revoke(context: Context, *, token_id: str, actor: str) -> Result:
    """End the token with this id, one's own or as an admin."""
    ended = _ledger(context).revoke_token(token_id, actor=identified(context, actor), now=_now())
    data = {"id": ended.id, "person": ended.person, "revoked": ended.revoked}
    return Result(data, (f"token {ended.id} of {ended.person} is revoked",))


@command("list")
def list_(context: Context) -> Result:
    """Everybody, with their roles and tokens; no secret."""
    ledger, now = _ledger(context), _now()
    found: list[dict[str, Any]] = []
    lines: list[str] = []
    for person in ledger.people():
        tokens = ledger.tokens(person.name)
        lines.append(_told(person))
        lines += [
            f"    token {each.id}  {each.ended(now) or 'in force':9}"
            f"{f' until {each.expires:%Y-%m-%d}' if each.expires else ''}  {each.label}".rstrip()
            for each in tokens
        ]
        stated = [
            {
                "id": each.id,
                "label": each.label,
                "created": each.created,
                "expires": each.expires,
                "state": each.ended(now) or "in force",
            }
            for each in tokens
        ]
        found.append(person.stated() | {"tokens": stated})
    return Result({"people": found}, tuple(lines) or ("nobody yet; make the first admin: `ratchet people first NAME`",))


@command("code")
@click.argument("trial_id", metavar="[TRIAL]", required=False, default="")
@click.option("--step", type=click.Choice(["approve", "reject", "rollback"]), required=True)
@click.option("--as", "actor", default="", help="Who will take the step; default: whose token the shell holds.")
def code(context: Context, *, trial_id: str, step: str, actor: str) -> Result:
    """Make a one-time code for one step within ten minutes: for Prefect's forms, which keep what is typed into them.

    It is bound to the newest look at TRIAL; after another look a new code is needed. A rollback has no TRIAL.
    """
    ledger, who = _ledger(context), identified(context, actor)
    looks = ledger.trial(trial_id).evidence if trial_id else ()
    evidence = looks[-1].sha256 if looks else ""
    shown = ledger.issue_code(who, step=step, subject=trial_id, evidence=evidence, now=_now())
    data = {"code": shown, "person": who, "step": step, "trial": trial_id or None, "evidence": evidence or None}
    about = f"look {looks[-1].number}, {looks[-1].decision}, evidence {evidence[:12]}…" if looks else ""
    lines = (shown, f"{who} may {step} {trial_id}".rstrip() + " with it, once, within 10 minutes", about)
    return Result(data, tuple(line for line in lines if line))


def _token(context: Context, name: str, *, label: str, days: float, actor: str) -> tuple[dict[str, Any], list[str]]:
    made, shown = _ledger(context).issue_token(
        name, label=label, lifetime=timedelta(days=days), actor=actor, now=_now()
    )
    data = {"token": shown, "token_id": made.id, "person": made.person, "expires": made.expires}
    until = f"{made.expires:%Y-%m-%d}" if made.expires else "it is revoked"
    lines = [shown, f"token {made.id} of {made.person}, until {until}; it is shown this once: export {VARIABLE}=…"]
    return data, lines


def _ledger(context: Context) -> "Ledger":
    from stores.ledger import Ledger

    return Ledger.of(context.home, context.settings)


def _now() -> datetime:
    # Not the home's clock: a simulation's time says nothing about how old a secret is.
    return datetime.now(UTC)


def _told(person: Person) -> str:
    state = "" if person.disabled is None else f", disabled since {person.disabled:%Y-%m-%d}"
    password = "" if person.has_password or person.disabled else ", no password"
    return f"{person.name}: {', '.join(sorted(person.roles))}{password}{state}"


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


for _command in (first, add, roles_, password_, disable, enable, token, revoke, list_, code):
    people.add_command(_command)

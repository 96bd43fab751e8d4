"""Who gives a command: outside simulations the person whose token the shell holds, whatever `--as` says.

The token is in the environment and nowhere else: arguments are seen by everybody on the machine and kept in histories.
"""

import getpass
import os
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from cli.console import Context
from relations.errors import RatchetError, UsageError
from stores.people import Person, Role, same_person

VARIABLE = "RATCHET_TOKEN"
NOBODY = "operator"
"""Who acts in a simulation where nobody is named."""
UNVERIFIED = " (unverified)"
PATIENCE_SECONDS = 5.0
MOST_BYTES = 10_000


def identified(context: Context, name: str = "") -> str:
    """The name, as recorded, of the person who gives the command; in a simulation home `name` as it is.

    An empty `name` is the token's person, or NOBODY in a simulation. Raises UsageError unless RATCHET_TOKEN holds a
    token in force, of `name`, and DependencyFailed where the ledger cannot be asked.
    """
    if context.home.simulation:
        return name or NOBODY
    person = _token_holder(context, name)
    if name and not same_person(person.name, name):
        raise UsageError(
            f"--as {name[:100]!a}: the token in {VARIABLE} is {person.name}'s; name {person.name}, "
            "or put your own token there"
        )
    return person.name


def allowed(context: Context, name: str, *roles: Role, what: str) -> str:
    """As `identified`, for acts that no transaction of the ledger checks. Raises GateRefused without the role."""
    from stores.ledger import Ledger

    who = identified(context, name)
    Ledger.of(context.home, context.settings).check_may(who, *roles, what=what)
    return who


@dataclass(frozen=True)
class Stated:
    """Who acts. `warning`: why that could not be verified; empty where it was."""

    name: str
    warning: str


def identified_or_stated(context: Context, name: str) -> Stated:
    """As `identified`, for what must be possible while the ledger is down because it can only take something away.

    Where the ledger cannot be asked, or does not answer within seconds, the name is as stated and marked as such.
    """
    problem = "" if context.home.simulation else _unreachable(context)
    if problem:
        return Stated(f"{name}{UNVERIFIED}", f"who you are was not verified: {problem}")
    return Stated(identified(context, name), "")


def signed_in(context: Context, name: str, *, from_stdin: bool) -> str:
    """Who signs in by password because the shell holds no token yet; empty where it holds one, and in a simulation.

    Raises UsageError for a wrong password.
    """
    from stores.ledger import Ledger

    holds_one = bool(os.environ.get(VARIABLE, "").strip())
    if context.home.simulation or not (from_stdin or (sys.stdin.isatty() and not holds_one)):
        return ""
    password = read_password(name, from_stdin=from_stdin, is_new=False)
    return Ledger.of(context.home, context.settings).who_knows(name, password, now=datetime.now(UTC)).name


def read_password(name: str, *, from_stdin: bool, is_new: bool = True) -> str:
    """From the first line of stdin, or from the terminal without echo; a new one is asked for twice.

    Raises UsageError where there is nothing to ask, and where the two differ.
    """
    if from_stdin:
        try:
            return sys.stdin.buffer.readline(MOST_BYTES).decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError("--password-stdin: not UTF-8; write the password as UTF-8") from error
    if not sys.stdin.isatty():
        raise UsageError(f"password of {name}: no terminal to ask at; give it on the first line of --password-stdin")
    try:
        typed = getpass.getpass(f"password of {name}: ", stream=sys.stderr)
        if is_new and getpass.getpass("once more: ", stream=sys.stderr) != typed:
            raise UsageError(f"password of {name}: the two differ; nothing was changed")
    except EOFError as error:
        raise UsageError(f"password of {name}: none was given; nothing was changed") from error
    return typed


def _unreachable(context: Context) -> str:
    """Why the ledger cannot be asked; empty where it can. A database that hangs holds nobody up."""
    from stores.ledger import Ledger

    problems: list[str] = []

    def ask() -> None:
        try:
            Ledger.of(context.home, context.settings).people()
            problems.append("")
        except RatchetError as error:
            problems.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    return problems[0] if problems else f"the ledger has not answered within {PATIENCE_SECONDS:g} s"


def _token_holder(context: Context, name: str) -> Person:
    from stores.ledger import Ledger

    shown = os.environ.get(VARIABLE, "").strip()
    ledger = Ledger.of(context.home, context.settings)
    if shown:
        try:
            return ledger.who_is(shown, now=datetime.now(UTC))
        except UsageError as error:
            raise UsageError(f"{VARIABLE}: {error}") from error
    if not ledger.people():
        raise UsageError(
            "nobody is known to this home's ledger yet; make the first admin: `ratchet people first NAME --token`, "
            f"and put the token in the environment variable {VARIABLE}"
        )
    whose = f"the token of {name[:100]!a}" if name else "your token"
    raise UsageError(
        f"this home asks who you are: put {whose} in the environment variable {VARIABLE}; "
        "one is made by `ratchet people token NAME`"
    )

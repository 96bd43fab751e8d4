"""Who takes a decision that comes through Prefect. What is typed there stays in Prefect's database, for everybody who
reaches it to read: so a person shows a one-time code, never a token or a password.
"""

from datetime import UTC, datetime

from relations.errors import GateRefused, UsageError
from stores.home import Home
from stores.ledger import Ledger
from stores.people import same_person


def decider(
    home: Home, ledger: Ledger, *, step: str, subject: str = "", actor: str = "", code: str = ""
) -> tuple[str, str | None]:
    """The person's name, and the SHA-256 of the look that they have seen; None where that is not known.

    A simulation home takes a name for it. Elsewhere `code`, which is good once, says who it is; an `actor` beside it
    must be the same person. Raises UsageError for a code that is not good, or none.
    """
    if code.strip():
        person, seen = ledger.redeem_code(code.strip(), step=step, subject=subject, now=datetime.now(UTC))
        if actor and not same_person(actor, person.name):
            raise UsageError(f"{step}: the code is {person.name}'s, and not {actor}'s; leave the name out")
        return person.name, seen or None
    if home.simulation:
        return actor, None
    stated = f"{subject} --step {step}" if subject else f"--step {step}"
    raise UsageError(
        f"{step}: a name alone proves nothing here; take a one-time code from the console, "
        f"or by `ratchet people code {stated} --as NAME`"
    )


def refuse_bare_name(home: Home, *, actor: str, deployed: bool) -> None:
    """Raises GateRefused for a step that a deployment's run would take in a person's name: nobody has proved theirs."""
    if actor and deployed and not home.simulation:
        raise GateRefused(f"a deployment's run cannot act as {actor}; use the command line, which asks for their token")

"""How a step that a person took on a page is carried out and told, whichever step it is."""

from collections.abc import Callable

from fastapi import Request, Response

from relations.errors import RatchetError
from serving.console.desk import Desk, person_of
from serving.console.refusals import Refused, refusal_of
from tasks.deciding import Decided

SERVING_SECONDS = 10.0
"""How long a step waits at most to see servers of this machine serve; without any it does not wait."""


def taken(
    desk: Desk, request: Request, act: Callable[[], str], *, again: Callable[[Refused], Response], then: str
) -> Response:
    """`act`, told on the page `then`; what it was refused for, on the page `again`."""
    try:
        told = act()
    except Refused as refused:
        return again(refused)
    except RatchetError as error:
        return again(refusal_of(error))
    return desk.done(request, then, told)


def name_of(request: Request) -> str:
    """Of who has signed in, as whom the step is taken."""
    person = person_of(request)
    assert person is not None
    return person.name


def serves_told(decided: Decided) -> str:
    """Who is champion now, and whether servers say so too."""
    told = {
        True: "The servers of this machine serve it.",
        False: "The servers of this machine do not report it yet.",
        None: "No server runs on this machine to be asked.",
    }[decided.serving]
    return f"v{decided.champion.version} is champion, epoch {decided.champion.epoch}. {told} {decided.warning}".strip()

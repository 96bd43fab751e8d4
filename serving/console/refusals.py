"""What goes wrong, as a page that says what, why and what to do about it; never a trace."""

from relations.errors import DataRejected, DependencyFailed, GateRefused, RatchetError
from serving.console.rendering import Problem

WHAT = {
    400: "This request cannot be understood",
    401: "Nobody is signed in",
    403: "This is not yours to do",
    404: "There is nothing here",
    405: "Not done this way",
    409: "Refused",
    413: "This is too large",
    415: "This is no form",
    422: "Something is missing",
    429: "Too many attempts",
    500: "A defect in Ratchet",
    503: "The ledger does not answer",
}


class Refused(Exception):  # noqa: N818 -- told to the person who asked
    """A request that is answered with `status` and a page of this."""

    def __init__(self, status: int, why: str, remedy: str = "", what: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.problem = Problem(what or WHAT.get(status, "Refused"), why, remedy)


def refusal_of(error: RatchetError) -> Refused:
    """How a decision that the ledger, the gate or the disk refused is told."""
    if isinstance(error, DependencyFailed):
        return Refused(503, *_parts(error))
    if isinstance(error, GateRefused | DataRejected):
        return Refused(409, *_parts(error))
    return Refused(422, *_parts(error))


def _parts(error: RatchetError) -> tuple[str, str]:
    """Our messages say what and why before the last semicolon, and what to do after it."""
    text = str(error)
    why, separator, remedy = text.rpartition("; ")
    return (why, remedy) if separator else (text, "")

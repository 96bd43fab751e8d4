"""What a form says, within bounds: everything that comes in by POST goes through here, before any handler sees it."""

import asyncio
import re
import unicodedata
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from serving.console.refusals import Refused
from stores.break_glass import MOST_HOURS

MAX_BODY = 64 * 1024
MAX_FIELDS = 16
BODY_SECONDS = 10.0
MAX_REASON = 2000


async def read_form(request: Request, *, seconds: float = BODY_SECONDS) -> dict[str, str]:
    """The fields of a form, one value each. Raises Refused for anything else than a small form that arrives in time."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(415, "The console takes what its own pages send.", "Use the form on the page.")
    try:
        async with asyncio.timeout(seconds):
            body = await _body(request)
    except TimeoutError:
        raise Refused(400, f"The form did not arrive within {seconds:g} seconds.", "Send it again.") from None
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS, separator="&"
        )
    except ValueError:
        raise Refused(400, "The form is damaged, or has too many fields.", "Open the page again.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Refused(400, "The form states a field twice.", "Open the page again.")
    return fields


def reason_of(form: Mapping[str, str]) -> str:
    """Why a step was taken, in one's own words. Raises Refused without one, and for one that could not be kept."""
    text = form.get("reason", "").replace("\r\n", "\n").strip()
    if not text:
        raise Refused(422, "A reason is kept in the ledger with every step.", "Write one.", "A reason is missing")
    if len(text) > MAX_REASON:
        why = f"It has {len(text):,} characters; {MAX_REASON:,} are kept."
        raise Refused(422, why, "Shorten it.", "The reason is too long")
    if odd := next((c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cs")), None):
        why = f"It holds the control character U+{ord(odd):04X}."
        raise Refused(422, why, "Write it without.", "The reason cannot be kept")
    return text


def epoch_of(form: Mapping[str, str]) -> int:
    """The champion's epoch that the person saw. Raises Refused where the form does not say."""
    stated = form.get("epoch", "")
    if not (stated.isascii() and stated.isdigit() and len(stated) < 10):
        raise Refused(422, "The form does not say which champion you saw.", "Open the page again.")
    return int(stated)


def version_of(form: Mapping[str, str]) -> int:
    """The version that was chosen. Raises Refused without one."""
    stated = form.get("version", "")
    if not (stated.isascii() and stated.isdigit() and len(stated) < 10):
        raise Refused(422, "The form does not say which version.", "Choose one.", "A version is missing")
    return int(stated)


def hours_of(form: Mapping[str, str]) -> float:
    """How long an unproven version may serve. Raises Refused for what is no such time."""
    stated = form.get("hours", "").strip()
    hours = float(stated) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4})?", stated) else 0.0
    if not 0 < hours <= MOST_HOURS:
        why = f"{stated[:20]!r} is not a number of hours above 0 and of at most {MOST_HOURS:g}."
        raise Refused(422, why, "State another.", "The hours are missing" if not stated else "Not so many hours")
    return hours


async def _body(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    received = bytearray()
    if not (length.isdigit() and int(length) > MAX_BODY):
        async for chunk in request.stream():
            received += chunk
            if len(received) > MAX_BODY:
                break
        else:
            return bytes(received)
    raise Refused(413, f"A form has at most {MAX_BODY // 1024} KiB.", "Shorten what you wrote.")

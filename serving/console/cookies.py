"""The console's three cookies: the session, what stands for it before signing in, and the last step's message.

All are HttpOnly and SameSite=Lax. Where people come by https they are Secure and named `__Host-…`, which a browser
takes from this very host alone: no neighbour of the domain can plant one.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

_LABEL = b"ratchet console: message "
MESSAGE_SECONDS = 60
MOST_MESSAGE = 2400
"""Bytes; a browser keeps some 4,000 of a cookie, and base64 makes four of three."""


@dataclass(frozen=True)
class Cookies:
    """`secure`: people come by https."""

    secure: bool

    def session(self, request: Request) -> str:
        """The session's secret, as claimed; empty without one."""
        return request.cookies.get(self._name("session"), "")

    def before(self, request: Request) -> str:
        """The secret of who has not signed in yet; empty without one."""
        return request.cookies.get(self._name("before"), "")

    def set_session(self, response: Response, secret: str) -> None:
        self._set(response, "session", secret)

    def set_before(self, response: Response, secret: str) -> None:
        self._set(response, "before", secret)

    def drop_session(self, response: Response) -> None:
        self._drop(response, "session")
        self._drop(response, "message")

    def drop_before(self, response: Response) -> None:
        self._drop(response, "before")

    def say(self, response: Response, message: str, *, secret: str) -> None:
        """Leave `message` for the next page of the session of `secret`; nobody else can make one."""
        kept = message.encode()
        if len(kept) > MOST_MESSAGE:
            kept = kept[:MOST_MESSAGE].decode(errors="ignore").encode() + "…".encode()
        told = base64.urlsafe_b64encode(kept).decode()
        self._set(response, "message", f"{told}.{_signed(told, secret)}", seconds=MESSAGE_SECONDS)

    def message(self, request: Request, *, secret: str) -> str:
        """What was left for this session; empty without one, and for one that the session did not sign."""
        told, _, signature = request.cookies.get(self._name("message"), "").partition(".")
        if not told or not hmac.compare_digest(signature.encode(), _signed(told, secret).encode()):
            return ""
        try:
            return base64.urlsafe_b64decode(told).decode()
        except (binascii.Error, ValueError):
            return ""

    def drop_message(self, response: Response) -> None:
        self._drop(response, "message")

    def _name(self, kind: str) -> str:
        return f"{'__Host-' if self.secure else ''}ratchet_{kind}"

    def _set(self, response: Response, kind: str, text: str, *, seconds: int | None = None) -> None:
        # Without Max-Age it goes with the browser's session; how long it is good for, the ledger says.
        response.set_cookie(
            self._name(kind), text, max_age=seconds, path="/", secure=self.secure, httponly=True, samesite="lax"
        )

    def _drop(self, response: Response, kind: str) -> None:
        response.delete_cookie(self._name(kind), path="/", secure=self.secure, httponly=True, samesite="lax")


def _signed(told: str, secret: str) -> str:
    return hmac.new(secret.encode(), _LABEL + told.encode(), hashlib.sha256).hexdigest()

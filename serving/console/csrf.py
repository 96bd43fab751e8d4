"""That a form was sent from a page of ours, by the browser that got the page.

Two checks, each enough by itself against what is known: the browser says where the request comes from (Origin,
Sec-Fetch-Site), and the form carries a token that follows from the cookie's secret. Another site can neither choose the
one nor read the other; a token of another session, or of one that was signed out, fits no cookie.
"""

import hashlib
import hmac
import secrets

from starlette.requests import Request

_LABEL = b"ratchet console: form"


def token_of(secret: str) -> str:
    """What the forms of a page carry whose cookie holds `secret`."""
    return hmac.new(secret.encode(), _LABEL, hashlib.sha256).hexdigest()


def fits(token: str, *, secret: str) -> bool:
    """In constant time. No secret, no token fits."""
    return bool(secret) and hmac.compare_digest(token.encode(), token_of(secret).encode())


def new_secret() -> str:
    """For who has no session yet: the sign-in form's token follows from it."""
    return secrets.token_urlsafe(32)


def is_own(request: Request, *, origin: str) -> bool:
    """Whether the browser says that the request comes from a page of `origin`. One that says nothing is not believed:
    every browser sends an Origin with a form."""
    stated, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    return stated == origin and site in (None, "same-origin")

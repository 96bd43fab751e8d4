"""What every answer of the console tells the browser, refusals and errors too."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
ALONE = "sandbox allow-top-navigation-by-user-activation; default-src 'none'; style-src 'unsafe-inline'; "
ALONE += "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Of the stand-alone evidence page, which brings its style along: an origin of its own, and no scripts or forms."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: a browser would send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
TRANSPORT = {"Strict-Transport-Security": "max-age=31536000"}
"""Where people come by https."""


class SecurityHeaders:
    """ASGI middleware, the outermost. An answer that states one of these itself keeps it."""

    def __init__(self, app: ASGIApp, *, secure: bool) -> None:
        self._app = app
        self._stated = HEADERS | (TRANSPORT if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, text in self._stated.items():
                    headers.setdefault(name, text)
            await send(message)

        await self._app(scope, receive, tell if scope["type"] == "http" else send)

"""Feedback tokens: proof that an item was shown to a user, by us, in this exposure.

    token = <exposure id>.<shown time in µs>.<digest's first 16 characters>.<MAC>
    MAC = first 16 bytes of HMAC-SHA-256(token key, exposure id, shown time, digest, user, item), base64url

User and item are in the MAC and not in the token, so a token fits only the event it was given for.
"""

import base64
import hmac
from collections.abc import Sequence

DAY_US = 86_400_000_000


class Tokens:
    def __init__(self, key: bytes, *, days: float) -> None:
        # A keyed state to copy: `hmac.digest` lets the interpreter's lock go for each of an answer's tokens, and other
        # threads take it.
        self._keyed = hmac.new(key, digestmod="sha256")
        self._life_us = round(days * DAY_US)

    def make(self, *, exposure_id: str, shown_us: int, digest: str, user: str, item_id: str) -> str:
        """`digest`: of the model that served; `user`: the pseudonym."""
        said = f"{exposure_id}.{shown_us}.{digest[:16]}"
        return f"{said}.{self._mac(said, user, item_id)}"

    def exposure_id(self, token: str, *, users: Sequence[str], item_id: str, now_us: int) -> str:
        """The exposure that `token` proves to have been shown to one of `users`, a person's pseudonyms.

        Raises ValueError saying why it proves none.
        """
        said, _, mac = token.rpartition(".")
        parts = said.split(".")
        if len(parts) != 3:
            raise ValueError("the token is not one of ours")
        stated = mac.encode("utf-8", "replace")
        if not any(hmac.compare_digest(stated, self._mac(said, user, item_id).encode()) for user in users):
            raise ValueError("the token does not fit this user and item, or was altered")
        if now_us - int(parts[1]) > self._life_us:
            raise ValueError(f"the token is older than {self._life_us / DAY_US:g} days")
        return parts[0]

    def _mac(self, said: str, user: str, item_id: str) -> str:
        # Lengths first: no two different (user, item) pairs may read as the same bytes.
        message = f"{len(said)}.{len(user)}.{said}{user}{item_id}".encode("utf-8", "surrogatepass")
        mac = self._keyed.copy()
        mac.update(message)
        return base64.urlsafe_b64encode(mac.digest()[:16]).rstrip(b"=").decode()

"""Settings of whom is told what: the section [notify] of `ratchet.toml`. See `stores.settings`."""

import json
import re
from typing import Annotated, Literal, get_args

from pydantic import Field, SecretStr, field_validator

from stores.sections import Section

Kind = Literal[
    "waits",
    "approval",
    "promoted",
    "believed",
    "rejected",
    "ended",
    "killed",
    "rolled_back",
    "break_glass",
    "mirror",
]
"""`waits`: a trial waits for approval; `approval`: the first of two was given; `believed`: a promotion's watch is over;
`rejected`: by a person or by a look; `ended`: aborted, expired, stale or inconclusive; `mirror`: somebody changed in
MLflow what the ledger says."""
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


class NotifySettings(Section):
    urls: tuple[SecretStr, ...] = ()
    """Whom to tell, as apprise URLs: `mailtos://user:password@example.com`, `jsons://example.com/hook`, … They hold
    secrets: RATCHET_NOTIFY__URLS states them too, with blanks, commas or lines between, or as a JSON list."""
    timeout_s: Annotated[float, Field(gt=0, le=30)] = 5.0
    """Telling waits no longer than this for all URLs together; what failed is tried again later."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    """What is told."""

    @field_validator("urls", mode="before")
    @classmethod
    def _several(cls, stated: object) -> object:
        return _split(stated) if isinstance(stated, str) else stated

    @field_validator("kinds", mode="before")
    @classmethod
    def _listed(cls, stated: object) -> object:
        return re.split(r"[\s,]+", stated.strip()) if isinstance(stated, str) else stated


def _split(stated: str) -> object:
    text = stated.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return [text]  # told as no URL when it is used, without showing it
    return _BETWEEN.split(text) if text else []

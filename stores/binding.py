"""Binding: which of a source's columns is which of Ratchet's."""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from relations.errors import SettingsError
from relations.parsing import parse
from relations.schemas import BEHAVIOURS, SCHEMAS
from stores.settings import SourceSettings

SCHEMAS_OF_SOURCES = ("events", "items", "users", "exposures")
# Written at the door, never read from a source.
STAMPED = ("received_time", "source", "delivery_id")
# Not null in the table, and derived or given a default where a source says nothing.
DERIVED = {"events": ("event_id",), "items": ("valid_from", "categories", "available"), "users": ("valid_from",)}
# Null in the table now and then; a source without the column is wrong all the same.
_EXPECTED = {"events": ("item_id",)}
# What others call our columns; a hint for the message, never applied unasked.
_SYNONYMS = {
    "user_id": ("user", "uid", "userid", "visitor_id", "visitorid", "customer_id", "member_id", "account"),
    "item_id": ("item", "iid", "itemid", "product", "product_id", "sku", "movie_id", "article_id", "asin"),
    "behaviour": ("behavior", "event", "event_type", "type", "action", "interaction", "verb"),
    "event_time": ("timestamp", "time", "ts", "date", "datetime", "unix_time", "created_at", "occurred_at"),
    "title": ("name", "item_name", "product_name", "movie_title"),
    "value": ("rating", "score", "stars", "amount"),
}  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """A required column that the source does not have."""

    column: str
    message: str


@dataclass(frozen=True)
class Binding:
    """`columns`: Ratchet's column → the source's, for those that the source has; `constants`: → what every row says.

    `users`: the source's column of raw user ids, and that of pseudonyms; one or both may be absent. `extra`: columns
    that nothing takes.
    """

    columns: dict[str, str]
    constants: dict[str, str]
    users: tuple[str | None, str | None]
    context: tuple[str, ...]
    missing: tuple[Missing, ...]
    extra: tuple[str, ...]

    @property
    def used(self) -> dict[str, str]:
        """Ratchet's column → the source's, users included."""
        raw, pseudonym = self.users
        user = raw or pseudonym
        return {**self.columns, **({"user": user} if user else {}), **{name: name for name in self.context}}


def bind(
    names: tuple[str, ...], *, kind: str, source: str, settings: SourceSettings, pseudonymous: bool, replayed: bool
) -> Binding:
    """Find each column of `kind` among `names`, by its own name or by `[sources.NAME] columns`.

    `pseudonymous`: users arrive as pseudonyms in `user`. `replayed`: rows from the quarantine, which have a pseudonym
    where one was made, and a raw id otherwise.
    """
    columns: dict[str, str] = {}
    missing: list[Missing] = []
    raw = pseudonym = None
    outside = {field.name: field for field in fields(kind)}
    # A column in its own place is no near name.
    own = {"user" if pseudonymous else "user_id", *(name for name in outside if name != "user")}
    free = tuple(name for name in names if name not in own)
    for name, field in outside.items():
        if name == "user":
            stated = settings.columns.get("user_id", settings.columns.get("user", "user_id"))
            raw = stated if stated in names and not pseudonymous else None
            pseudonym = "user" if "user" in names and (pseudonymous or (replayed and raw != "user")) else None
            if raw is None and pseudonym is None:
                wanted = "user" if pseudonymous else "user_id"
                missing.append(_missing(wanted, wanted if pseudonymous else stated, free, source))
            continue
        stated = settings.columns.get(name, name)
        if stated in names:
            columns[name] = stated
        elif name not in settings.constants and _required(kind, field, settings):
            missing.append(_missing(name, stated, free, source))
    constants = {name: value for name, value in settings.constants.items() if name in outside and name not in columns}
    context = tuple(name for name in settings.context if name in names)
    taken = {*columns.values(), *context, raw, pseudonym}
    extra = tuple(name for name in names if name not in taken)
    return Binding(columns, constants, (raw, pseudonym), context, tuple(missing), extra)


def require_mapping(source: str, settings: SourceSettings) -> None:
    """Raises SettingsError where `[sources.NAME]` names a column or a behaviour that Ratchet does not have.

    Before anything is begun: a delivery that cannot be read under its own settings could never be finished.
    """
    types = {field.name: field.type for kind in reversed(SCHEMAS_OF_SOURCES) for field in fields(kind)}
    known = sorted({*types, "user_id"})
    for section, names in (("columns", settings.columns), ("constants", settings.constants)):
        for name in names:
            if name not in known:
                raise SettingsError(_unknown(source, section, name, "column", known))
    for stated, name in settings.behaviours.items():
        if name not in BEHAVIOURS:
            raise SettingsError(_unknown(source, f"behaviours: {stated}", name, "behaviour", BEHAVIOURS))
    for name, value in settings.constants.items():
        unread = parse([value], types.get(name, pa.string())).unread
        if unread:
            raise SettingsError(f"ratchet.toml: [sources.{source}] constants: {name}: {unread[0]}")


def absent(names: Collection[str], *, kind: str, source: str, settings: SourceSettings) -> list[str]:
    """Warnings of columns that `[sources.NAME]` names, that need not be there, and that a delivery does not have."""
    outside = {"user_id" if field.name == "user" else field.name: field for field in fields(kind)}
    optional = [name for name, field in outside.items() if not _required(kind, field, settings)]
    stated = {settings.columns[name]: name for name in optional if name in settings.columns}
    if kind == "events":
        stated |= dict.fromkeys(settings.context, "context")
    taken = {*settings.columns.values(), *settings.context}
    found = []
    for name, ours in stated.items():
        if name not in names:
            near = difflib.get_close_matches(name, sorted({*names} - taken), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            found.append(f"source {source}: column {name} ({ours}) is not in this delivery{hint}")
    return found


def _unknown(source: str, place: str, name: str, what: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"ratchet.toml: [sources.{source}] {place}: {name!r} is no {what} of Ratchet's; {hint}"


def expected(kind: str, settings: SourceSettings) -> dict[str, str]:
    """Ratchet's column → the name that the source has for it, whether a delivery has it or not."""
    outside = ["user_id" if field.name == "user" else field.name for field in fields(kind)]
    return {"user" if name == "user_id" else name: settings.columns.get(name, name) for name in outside}


def fields(kind: str) -> list[pa.Field]:
    """The columns of a kind that a source states."""
    return [field for field in SCHEMAS[kind] if field.name not in STAMPED]


def _required(kind: str, field: pa.Field, settings: SourceSettings) -> bool:
    if field.name == "item_id" and settings.constants.get("behaviour") == "search":
        return False
    if field.name in _EXPECTED.get(kind, ()):
        return True
    return not field.nullable and field.name not in DERIVED.get(kind, ())


def _missing(column: str, stated: str, names: tuple[str, ...], source: str) -> Missing:
    known = [name for name in names if name.lower() in (*_SYNONYMS.get(column, ()), column)]
    near = list(dict.fromkeys([*known, *difflib.get_close_matches(column, names, n=3, cutoff=0.5)]))
    has = f"near names: {', '.join(near)}" if near else f"it has: {', '.join(names[:20]) or 'no columns'}"
    wanted = column if stated == column else f"{column} (set to {stated!r})"
    line = f'[sources.{source}] columns = {{ {column} = "{near[0] if near else "NAME"}" }}'
    return Missing(column, f"column {wanted} is missing; {has}; write in ratchet.toml: {line}")

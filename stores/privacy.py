"""What a person may ask of the data: to be forgotten, and that the key of the pseudonyms be changed.

Both are orders: written down in `staging/order.json` before anything is touched, carried out under the ingest lock, and
finished by whoever takes that lock next if the process is killed. Every step can be repeated. The order alone names the
person; it goes last, after a receipt that names nobody.
"""

import html
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from relations.errors import DependencyFailed
from relations.schemas import SCHEMAS
from stores.failpoints import reach
from stores.home import Home
from stores.pseudonyms import Keys, draw_key, newest_version
from stores.sequences.store import SequenceStore
from stores.serving_settings import ServingSettings
from stores.settings import Settings
from stores.upkeep import LakeKeeper
from stores.user_states import UserState, open_user_state

WITH_USERS = tuple(table for table, schema in SCHEMAS.items() if "user" in schema.names)
FORGET, ROTATE = "forget", "rotate"
FORGOTTEN = b"[forgotten]"
WISH = "wish-"
"""Begins the name of the file in staging that holds a user's opt-out on its way to the door."""
_WORD = re.compile(rb"[\w\x80-\xff-]+")
_FEW = 100
_REMEMBERED = 1_000_000
_NOW = timedelta(0)
_PART, _OVERLAP = 1 << 20, 1 << 13  # bytes; no id is as long as the overlap
_UNPACKED = 1 << 28
"""How much of a rejected file's decompressed bytes are searched: it may have been rejected for being a bomb."""


@dataclass(frozen=True)
class Order:
    """`receipt`: what will be filed, complete but for the counts of what is found on the way.

    `serving` tells where users' state is, as `whereabouts` makes it: what finishes a killed order has no settings.
    `raw` and `pseudonyms` are of the users to forget; `version` is the key to rotate to, and `pause_seconds` how long a
    server may take to see it: users' state moves to the new pseudonyms only then, so that nobody is unknown meanwhile.
    """

    kind: str
    receipt: Mapping[str, Any]
    serving: Mapping[str, Any] = field(default_factory=dict)
    raw: tuple[str, ...] = ()
    pseudonyms: tuple[str, ...] = ()
    version: int = 0
    pause_seconds: float = 0.0


class Mentions:
    """Finds texts in bytes of any kind, as whole words, as they are or as JSON and HTML write them."""

    def __init__(self, texts: Iterable[str]) -> None:
        written = {form for text in texts for form in _forms(text)}
        # Words are looked up, however many there are; what has other characters in it is searched for one by one.
        self._words = {form for form in written if _WORD.fullmatch(form)}
        # The longest first: of "ada x" and "ada x-1", the whole.
        others = sorted(written - self._words, key=lambda form: (-len(form), form))
        either = b"|".join(re.escape(form) for form in others)
        self._others = re.compile(rb"(?<![\w\x80-\xff-])(?:" + either + rb")(?![\w\x80-\xff-])") if either else None

    def within(self, data: bytes) -> bool:
        if self._others is not None and self._others.search(data):
            return True
        if len(self._words) <= _FEW and not any(word in data for word in self._words):
            return False  # a hundred times faster than to tell the words apart
        return not self._words.isdisjoint(_WORD.findall(data))

    def blotted(self, data: bytes) -> bytes:
        if self._others is not None:
            data = self._others.sub(FORGOTTEN, data)
        return _WORD.sub(lambda word: FORGOTTEN if word[0] in self._words else word[0], data)


def carry_out(home: Home, order: Order) -> dict[str, Any]:
    """Write `order` down and do it; returns its receipt. The caller holds the ingest lock."""
    path = _order_file(home)
    try:
        descriptor = os.open(temporary := path.with_suffix(".part"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
            json.dump(asdict(order), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DependencyFailed(f"{path}: cannot write the order: {error}; make space, then repeat") from error
    reach("privacy.ordered")
    return _execute(home, order)


def finish_interrupted(home: Home) -> dict[str, Any] | None:
    """Do what a killed process had begun; its receipt, None where nothing was. The caller holds the ingest lock."""
    path = _order_file(home)
    try:
        said = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
        said |= {name: tuple(said[name]) for name in ("raw", "pseudonyms")}
        order = Order(**said)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DependencyFailed(
            f"{path}: not readable as an order ({error}); move it away and repeat the `ratchet forget` or "
            "`ratchet privacy rotate` that was cut off"
        ) from error
    return _execute(home, order)


def receipts(home: Home) -> list[dict[str, Any]]:
    """All that were filed, oldest first."""
    files = [file for kind in (FORGET, ROTATE) for file in (home.reports / kind).glob("*.json")]
    found: list[dict[str, Any]] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(found, key=lambda receipt: (receipt["asked"], receipt["id"]))


def _execute(home: Home, order: Order) -> dict[str, Any]:
    steps: dict[str, Callable[[Home, Order], dict[str, Any]]] = {FORGET: _forget, ROTATE: _rotate}
    try:
        found = steps[order.kind](home, order)
        receipt = {**order.receipt, **found, "finished": datetime.now(UTC).isoformat()}
        _file_receipt(home, order.kind, receipt)
        reach("privacy.receipt")
        _order_file(home).unlink()
    except OSError as error:
        raise DependencyFailed(
            f"{error.filename or home.root}: {error.strerror}; make space or mend the disk: the next ingest goes on"
        ) from error
    return receipt


def _forget(home: Home, order: Order) -> dict[str, Any]:
    keeper, users = LakeKeeper(home.lake), order.pseudonyms
    mentions = Mentions((*order.raw, *users))
    if _remembers(home, order):  # first: from here on the user is unknown to serving
        with _user_state(home, order) as state:
            state.forget(users)
    reach("privacy.state")
    for table in WITH_USERS:
        keeper.delete(table, column="user", values=users)
        reach("privacy.table")
    _drop_unreadable(keeper, mentions)
    SequenceStore(home.sequences).discard()  # derived: the next training builds them again
    for wish in home.staging.glob(f"{WISH}*"):  # of a process that was killed over it
        wish.unlink()
    rejected = [file for file in _files(home.rejected) if any(mentions.within(part) for part in _parts(file))]
    for file in rejected:
        file.unlink()
    blotted = [file for file in _files(home.reports) if _blot(file, mentions)]
    reach("privacy.files")
    _vacuum(keeper)
    return {"files": {"rejected": len(rejected), "reports": len(blotted)}}


def _rotate(home: Home, order: Order) -> dict[str, Any]:
    if newest_version(home.keys) < order.version:
        draw_key(home.keys, order.version)
    reach("privacy.key")
    keys, keeper = Keys.load(home.keys), LakeKeeper(home.lake)
    for table in WITH_USERS:
        keeper.rewrite(table, lifting(keys))
        reach("privacy.table")
    if _remembers(home, order):
        time.sleep(order.pause_seconds)
        with _user_state(home, order) as state:
            state.rename(keys.prefix, keys.lift_all)
    reach("privacy.state")
    SequenceStore(home.sequences).discard()
    _vacuum(keeper)
    return {}


def whereabouts(settings: Settings) -> dict[str, Any]:
    """Of users' state, for an order. A secret stays `env:NAME` where the settings say so."""
    return settings.serving.model_dump(include={"user_state", "user_state_options", "user_state_days"})


def _remembers(home: Home, order: Order) -> bool:
    return home.user_state.exists() or bool(order.serving.get("user_state"))


@contextmanager
def _user_state(home: Home, order: Order) -> Iterator[UserState]:
    state = open_user_state(home, Settings(serving=ServingSettings.model_validate(order.serving)))
    try:
        yield state
    finally:
        state.close()


def lifting(keys: Keys) -> Callable[[pa.Table], pa.Table]:
    """Gives each user of some rows the pseudonym in force. Users come again, so the last ones are remembered."""
    known: dict[str, str] = {}

    def lifted(rows: pa.Table) -> pa.Table:
        at = rows.schema.get_field_index("user")
        users = rows.column(at).combine_chunks().dictionary_encode()
        said = users.dictionary.to_pylist()
        if len(known) > _REMEMBERED:
            known.clear()
        new = [user for user in said if user not in known]
        known.update(zip(new, keys.lift_all(new), strict=True))
        newest = pa.array([known[user] for user in said], pa.string())
        return rows.set_column(at, rows.schema.field(at), newest.take(users.indices))

    return lifted


def _drop_unreadable(keeper: LakeKeeper, mentions: Mentions) -> None:
    """Quarantined rows that nobody could read, so that no user is known of them: those whose bytes name the person."""

    def others(rows: pa.Table) -> pa.Table:
        named = [
            user is None and mentions.within(raw)
            for user, raw in zip(rows.column("user").to_pylist(), rows.column("raw").to_pylist(), strict=True)
        ]
        return rows.filter(pa.array([not each for each in named], pa.bool_()))

    if any(others(rows).num_rows < rows.num_rows for rows in keeper.batches("quarantine", ("user", "raw"))):
        keeper.rewrite("quarantine", others)


def _vacuum(keeper: LakeKeeper) -> None:
    """Also of tables that held none of it now: older versions may have."""
    for table in WITH_USERS:
        keeper.vacuum(table, keep=_NOW)
        keeper.trim(table, keep=_NOW)
    reach("privacy.vacuumed")


def _blot(file: Path, mentions: Mentions) -> bool:
    data = file.read_bytes()
    if not mentions.within(data):
        return False
    temporary = file.with_name(f".{file.name}.part")
    temporary.write_bytes(mentions.blotted(data))
    temporary.replace(file)
    return True


def _parts(file: Path) -> Iterator[bytes]:
    """The bytes, then those of what is compressed in them as far as they can be read; in overlapping parts."""
    for codec in (None, "gzip", "bz2", "zstd"):
        try:
            with pa.input_stream(str(file), compression=codec) as stream:
                tail, left = b"", _UNPACKED if codec else file.stat().st_size
                while left > 0 and (part := stream.read(min(_PART, left))):
                    left -= len(part)
                    yield tail + part
                    tail = part[-_OVERLAP:]
        except (OSError, pa.ArrowException):
            continue  # not of this codec, or cut off


def _file_receipt(home: Home, kind: str, receipt: Mapping[str, Any]) -> None:
    folder = home.reports / kind
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{receipt['id']}.json"
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(receipt, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(file)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _order_file(home: Home) -> Path:
    return home.staging / "order.json"


def _forms(text: str) -> set[bytes]:
    forms = (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], html.escape(text))
    return {form.encode("utf-8", "surrogatepass") for form in forms}

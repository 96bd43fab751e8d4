"""What is known of users enters a training as of each event, never later."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from model.fit import fit_full
from model.options import NetworkOptions, TrainOptions
from model.sequences import Histories
from relations.schemas import USERS
from stores.home import Home
from stores.lake import Lake
from stores.learning_settings import FeatureSettings
from stores.settings import Settings, load_settings
from tasks.describing_users import with_user_attributes
from tasks.options import features_of

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def _us(day: int) -> int:
    return int((EPOCH + timedelta(days=day)).timestamp() * 1_000_000)


def _say(home: Home, *told: tuple[str, int, dict[str, str] | None]) -> None:
    rows = [
        {
            "user": user,
            "valid_from": EPOCH + timedelta(days=day),
            "attributes": None if said is None else list(said.items()),
            "received_time": EPOCH,
            "source": "test",
            "delivery_id": "one",
        }
        for user, day, said in told
    ]
    Lake(home.lake).append("users", pa.Table.from_pylist(rows, schema=USERS), transaction=str(told))


def _histories(*rows: tuple[str, int]) -> Histories:
    users = np.array(sorted({user for user, _ in rows}), dtype=object)
    rows = tuple(sorted(rows))
    counts = np.bincount(np.searchsorted(users, [user for user, _ in rows]))
    return Histories(
        users,
        np.array([f"i{n}" for n in range(len(rows))], dtype=object),
        np.arange(len(rows)),
        np.ones(len(rows), dtype=np.int64),
        np.array([_us(day) for _, day in rows]),
        np.concatenate([[0], np.cumsum(counts)]),
    )


def test_an_event_knows_what_was_said_by_then(home: Home) -> None:
    _say(
        home,
        ("ü", 2, {"plan": "free"}),
        ("ü", 4, {"plan": "paid", "age": "7"}),
        ("ü", 6, None),
        ("other", 1, {"plan": "x"}),
    )
    found = with_user_attributes(
        Lake(home.lake), _histories(*(("ü", day) for day in range(1, 8)), ("v", 5)), names=("plan", "age")
    )
    # v stands before ü, and nothing is said of v
    assert found.attributes["plan"].texts() == [None, None, "free", "free", "paid", "paid", None, None]
    assert found.attributes["age"].texts() == [None, None, None, None, "7", "7", None, None]


def test_without_a_declaration_nothing_is_read(home: Home) -> None:
    histories = _histories(("u", 1))
    assert with_user_attributes(Lake(home.lake), histories, names=()) is histories


def test_the_settings_reach_the_network(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "ratchet.toml"
    file.write_text('[features.user]\nplan = "category"\nage = "number"\n[privacy]\nk = 2\n', encoding="utf-8")
    settings = load_settings(file)
    users = [f"u{n}" for n in range(6)]
    _say(home, *((user, 0, {"plan": "paid" if n % 2 else "free", "age": str(n)}) for n, user in enumerate(users)))
    histories = _histories(*((user, day) for user in users for day in range(1, 6)))
    known = with_user_attributes(Lake(home.lake), histories, names=settings.features.user)
    fitted = fit_full(
        known,
        network=NetworkOptions(width=8, blocks=1, max_history=4),
        training=TrainOptions(epochs=1, threads=1),
        features=features_of(settings),
    )
    assert set(fitted.ranker.config.attributes) == {"age", "plan"}
    assert features_of(Settings()).user == FeatureSettings().user == {}

"""API keys: what is stored, what counts, and that a running process follows the file."""

import json
import os
import re
import stat
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from relations.errors import DependencyFailed, UsageError
from stores.api_keys import ApiKey, KeyRefused, KeyRing, Role, add_key, read_keys, revoke_key

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


def add(path: Path, name: str = "shop", *roles: Role, days: float | None = None) -> tuple[ApiKey, str]:
    lifetime = None if days is None else timedelta(days=days)
    return add_key(path, name=name, roles=roles or (Role.RECOMMEND,), lifetime=lifetime, now=NOW)


def test_a_key_is_stored_as_a_hash_and_its_secret_nowhere(path: Path) -> None:
    key, shown = add(path, "Größenladen 🛒", Role.FEEDBACK, Role.RECOMMEND, days=30)
    assert re.fullmatch(r"rk_[0-9a-f]{8}_[0-9a-f]{48}", shown)  # 48 hex digits: 192 bits
    secret = shown.rpartition("_")[2]
    assert secret not in path.read_text()
    assert key.secret_sha256 not in repr(key)
    (row,) = json.loads(path.read_text())["keys"]
    assert row == {
        "id": shown.split("_")[1],
        "name": "Größenladen 🛒",
        "roles": ["feedback", "recommend"],
        "created": "2026-01-01T12:00:00+00:00",
        "expires": "2026-01-31T12:00:00+00:00",
        "revoked": None,
        "secret_sha256": sha256(secret.encode()).hexdigest(),
    }
    assert read_keys(path) == [key]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["api_keys.json", "api_keys.lock"]


def test_a_key_counts_until_it_expires_or_is_revoked(path: Path) -> None:
    first, shown = add(path, "first", days=2)
    _, other = add(path, "other", Role.ADMIN)
    ring = KeyRing(path)
    assert ring.check(shown, now=NOW + 2 * DAY - timedelta(microseconds=1)) == first
    with pytest.raises(KeyRefused, match=rf"expired 2026-01-03 12:00 UTC; its id is {first.id}"):
        ring.check(shown, now=NOW + 2 * DAY)
    revoke_key(path, "first", now=NOW + DAY)
    assert ring.check(shown, now=NOW) == first  # until the next look
    ring.refresh()
    with pytest.raises(KeyRefused, match="was revoked"):
        ring.check(shown, now=NOW)
    assert ring.check(other, now=NOW).roles == {Role.ADMIN}


def test_what_is_no_key_is_refused_and_not_repeated(path: Path) -> None:
    key, shown = add(path)
    _, other = add(path, "other")
    secret = shown.rpartition("_")[2]
    ring = KeyRing(path)
    for wrong in (
        "",
        "rk",
        "rk__",
        f"rk_{key.id}",
        f"rk_{key.id}_",
        f"rk_{key.id}_{secret[:-1]}",
        f"rk_{key.id}_{secret}0",
        f"rk_{key.id}_{secret.upper()}",
        f"rk_{key.id}_{other.rpartition('_')[2]}",
        f"rk_00000000_{secret}",
        f"xx_{key.id}_{secret}",
        f" {shown}",
        f"rk_{key.id}_{key.secret_sha256}",  # who reads the file has no key
        "ü🛒_\udce4_\x00",
    ):
        with pytest.raises(KeyRefused, match=r"^this is no key of this server$"):
            ring.check(wrong, now=NOW)


@given(shown=st.text() | st.from_regex(r"rk_[0-9a-f]{8}_[0-9a-f]{48}", fullmatch=True))
@hypothesis_settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_but_the_key_opens(path: Path, shown: str) -> None:
    if not path.exists():
        add(path)
    with pytest.raises(KeyRefused):
        KeyRing(path).check(shown, now=NOW)


def test_a_revoked_key_stays_on_the_record_and_the_door_stays_closed(path: Path) -> None:
    ring = KeyRing(path)
    assert ring.open
    key, _ = add(path)
    ring.refresh()
    assert not ring.open
    assert revoke_key(path, key.id, now=NOW + DAY).revoked == NOW + DAY
    assert revoke_key(path, key.id, now=NOW + 2 * DAY).revoked == NOW + DAY  # a second time changes nothing
    ring.refresh()
    assert not ring.open


def test_a_name_belongs_to_one_key_in_force(path: Path) -> None:
    first, _ = add(path, "shop", days=1)
    with pytest.raises(UsageError, match="'shop': is there already"):
        add(path, "shop")
    assert revoke_key(path, "shop", now=NOW).id == first.id
    second, _ = add(path, "shop")
    assert second.id != first.id
    assert revoke_key(path, "shop", now=NOW).id == second.id
    with pytest.raises(UsageError, match="'shop': there is none in force"):
        revoke_key(path, "shop", now=NOW)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "\ud800"])
def test_a_name_is_something_to_print(path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="1 to 100 printable characters"):
        add(path, name)
    assert not path.exists()


def test_roles_and_a_life_are_needed(path: Path) -> None:
    with pytest.raises(UsageError, match="one role of recommend, feedback, admin"):
        add_key(path, name="x", roles=(), lifetime=None, now=NOW)
    with pytest.raises(UsageError, match="more than 0 days"):
        add(path, days=0)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 2, "keys": []}',
        b'{"format": 1}',
        b'{"format": 1, "keys": [{"id": "x"}]}',
        b'{"format": 1, "keys": [{"id": "x", "name": "n", "roles": ["root"], "created": "2026-01-01T00:00:00+00:00", '
        b'"expires": null, "revoked": null, "secret_sha256": "' + b"0" * 64 + b'"}]}',
        b'{"format": 1, "keys": [{"id": "x", "name": "n", "roles": ["admin"], "created": "2026-01-01T00:00:00+00:00", '
        b'"expires": null, "revoked": null, "secret_sha256": ""}]}',
        b'{"format": 1, "keys": [{"id": "x", "name": "n", "roles": ["admin"], "created": "2026-01-01T00:00:00", '
        b'"expires": null, "revoked": null, "secret_sha256": "' + b"0" * 64 + b'"}]}',
    ],
)
def test_a_damaged_file_opens_nothing(path: Path, damage: bytes) -> None:
    key, shown = add(path)
    ring = KeyRing(path)
    path.write_bytes(damage)
    with pytest.raises(DependencyFailed, match=r"api_keys\.json.*restore it from a backup"):
        KeyRing(path)
    with pytest.raises(DependencyFailed, match=r"api_keys\.json"):
        ring.refresh()
    assert ring.check(shown, now=NOW) == key  # the former keys stay


def test_a_lost_file_does_not_open_what_keys_had_closed(path: Path) -> None:
    _, shown = add(path)
    ring = KeyRing(path)
    path.unlink()
    with pytest.raises(DependencyFailed, match="missing; restore it"):
        ring.refresh()
    assert not ring.open
    assert ring.check(shown, now=NOW)


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(path)
    ring = KeyRing(path)
    monkeypatch.setattr("stores.api_keys.read_keys", lambda _path: pytest.fail("read again"))
    ring.refresh()


def test_changes_at_the_same_time_are_all_kept(path: Path) -> None:
    threads = [threading.Thread(target=add, args=(path, f"key {n}")) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in read_keys(path)) == sorted(f"key {n}" for n in range(16))


def test_a_change_that_dies_half_way_leaves_the_former_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = add(path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            add(path, "second")
    assert read_keys(path) == [key]
    add(path, "third")
    assert [known.name for known in read_keys(path)] == ["shop", "third"]

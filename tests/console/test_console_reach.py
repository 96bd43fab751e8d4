"""Where the console may listen and by which name it is asked: nothing beyond this machine without authentication."""

from pathlib import Path

import pytest

from relations.errors import SettingsError, UsageError
from serving.console.app import create_console
from serving.console.reach import Reach, listening_address
from stores.home import Home
from stores.settings import Settings, load_settings

HTTPS = Settings.model_validate({"console": {"url": "https://review.example.com"}})


def home_at(folder: Path, *, simulation: bool = False) -> Home:
    return Home.create(folder / "home", simulation=simulation)


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ("", ""),
        ("https://review.example.com", "https://review.example.com"),
        ("https://Review.example.com:443/", "https://review.example.com"),
        ("https://review.example.com:8443", "https://review.example.com:8443"),
        ("http://localhost:8891", "http://localhost:8891"),
        ("http://[::1]:80/", "http://[::1]"),
    ],
)
def test_an_address_is_kept_as_browsers_write_it(stated: str, kept: str) -> None:
    assert Settings.model_validate({"console": {"url": stated}}).console.url == kept


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        ("review.example.com", "write scheme and host"),
        ("ftp://review.example.com", "write scheme and host"),
        ("https://", "write scheme and host"),
        ("https://ada:secret@review.example.com", "write scheme and host"),
        ("https://bücher.example", "xn--"),
        ("https://review.example.com/ratchet", "a host of its own"),
        ("https://review.example.com?x=1", "a host of its own"),
        ("http://review.example.com", "https only"),
        ("http://10.0.0.5:8891", "https only"),
        ("https://review.example.com:99999", "out of range"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(tmp_path: Path, stated: str, why: str) -> None:
    file = tmp_path / "ratchet.toml"
    file.write_text(f'[console]\nurl = "{stated}"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match="url") as caught:
        load_settings(file, environment={})
    assert why in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_nothing(tmp_path: Path, host: str) -> None:
    reach = Reach.of(home_at(tmp_path), Settings())
    assert listening_address(host, home=home_at(tmp_path), reach=reach, anybody=lambda: False) in ("127.0.0.1", "::1")


def test_beyond_this_machine_people_sign_in_and_come_by_https(tmp_path: Path) -> None:
    home = home_at(tmp_path)
    plain, behind_proxy = Reach.of(home, Settings()), Reach.of(home, HTTPS)
    for host in ("0.0.0.0", "::", "10.0.0.5"):
        with pytest.raises(UsageError, match="ratchet people first"):
            listening_address(host, home=home, reach=behind_proxy, anybody=lambda: False)
        with pytest.raises(UsageError, match="https"):
            listening_address(host, home=home, reach=plain, anybody=lambda: True)
        assert listening_address(host, home=home, reach=behind_proxy, anybody=lambda: True) == host
    with pytest.raises(UsageError, match="is no address"):
        listening_address("review.example.com", home=home, reach=behind_proxy, anybody=lambda: True)


def test_a_simulation_is_never_reached_from_elsewhere(tmp_path: Path) -> None:
    home = home_at(tmp_path, simulation=True)
    with pytest.raises(UsageError, match="no simulation"):
        listening_address("0.0.0.0", home=home, reach=Reach("review.example.com"), anybody=lambda: True)
    with pytest.raises(UsageError, match="a name alone"):
        create_console(home, HTTPS)


def test_a_loopback_url_changes_nothing(tmp_path: Path) -> None:
    settings = Settings.model_validate({"console": {"url": "http://localhost:8891"}})
    reach = Reach.of(home_at(tmp_path), settings)
    assert not reach.secure
    assert reach.admits("127.0.0.1:4711")
    assert reach.origin("LOCALHOST:8891") == "http://localhost:8891"


def test_one_name_is_answered_to_behind_a_proxy(tmp_path: Path) -> None:
    reach = Reach.of(home_at(tmp_path), HTTPS)
    assert reach.secure
    assert reach.admits("review.example.com")
    assert not reach.admits("review.example.com.")
    assert not reach.admits("127.0.0.1")
    assert reach.origin("anything") == "https://review.example.com"

"""Settings: file, environment, and errors that say what to write instead."""

from pathlib import Path

import pytest

from cli.console import Context
from relations.errors import SettingsError
from stores.home import Home
from stores.settings import find_settings, load_settings


def test_defaults_hold_without_a_file() -> None:
    settings = load_settings(None, environment={})
    assert settings.trial.alpha == 0.025
    assert settings.serving.host == "127.0.0.1"


def test_environment_wins_over_file(tmp_path: Path) -> None:
    file = tmp_path / "ratchet.toml"
    file.write_text("[trial]\nn_max = 1000\nlooks = 4\n")
    settings = load_settings(file, environment={"RATCHET_TRIAL__N_MAX": "2000", "RATCHET_UNRELATED": "x"})
    assert (settings.trial.n_max, settings.trial.looks) == (2000, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[trail]\n", "trail is not a setting; did you mean trial?"),
        ("[sources.shop]\ncolums = {}\n", "[sources.shop] colums is not a setting; did you mean columns?"),
        ('[serving]\nport = "x"\n', "[serving] port = 'x'"),
        ("[trial]\nallocation = 1.5\n", "[trial] allocation = 1.5"),
        ("[lake]\nkeep_days = inf\n", "[lake] keep_days = inf: Value error, at most 36,500 days"),
        ("[online]\nhours = 1e300\n", "[online] hours = 1e+300"),
        ("[trial\n", "not TOML"),
    ],
)
def test_a_wrong_key_or_value_names_file_key_and_remedy(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "ratchet.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file, environment={})
    assert str(file) in str(caught.value)
    assert says in str(caught.value)


def test_a_wrong_variable_is_named_as_such() -> None:
    with pytest.raises(SettingsError, match=r"environment RATCHET_TRIAL__ALHPA: .*did you mean alpha"):
        load_settings(None, environment={"RATCHET_TRIAL__ALHPA": "0.1"})
    with pytest.raises(SettingsError, match=r"environment RATCHET_TRAIL__ALPHA: trail is .*did you mean trial"):
        load_settings(None, environment={"RATCHET_TRAIL__ALPHA": "0.1"})
    assert load_settings(None, environment={"RATCHET_TOKEN": "rt_x", "RATCHET_PORT_80_TCP": "x"}).trial.alpha == 0.025


def test_the_homes_file_comes_before_the_working_directorys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_settings(tmp_path / "home", None) is None
    (tmp_path / "ratchet.toml").write_text("")
    assert find_settings(tmp_path / "home", None) == Path("ratchet.toml")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ratchet.toml").write_text("")
    assert find_settings(tmp_path / "home", None) == tmp_path / "home" / "ratchet.toml"
    assert find_settings(tmp_path / "home", Path("mine.toml")) == Path("mine.toml")


def test_a_server_finds_the_settings_of_a_home_that_is_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers and flows work in other folders than the command."""
    monkeypatch.chdir(tmp_path)
    Home.create(Path(".ratchet"))
    (tmp_path / ".ratchet" / "ratchet.toml").write_text("")
    assert Context(Path(".ratchet"), None, as_json=False).config_argument == str(tmp_path / ".ratchet" / "ratchet.toml")
    assert Context(Path(".ratchet"), Path("other.toml"), as_json=False).config_argument == str(tmp_path / "other.toml")

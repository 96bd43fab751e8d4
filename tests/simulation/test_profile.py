import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.errors import DataRejected
from simulation.marketplace import Marketplace
from simulation.profile import gini, main, profile, profile_diginetica, profile_movielens, profile_simulation


def test_gini_by_hand() -> None:
    # Counts 1, 1, 4: mean absolute difference over all 9 ordered pairs is (4 · 3)/9, half of it over the mean 2.
    assert gini(np.array([4, 1, 1])) == pytest.approx((4 * 3 / 9) / 2 / 2)
    assert gini(np.array([5, 5, 5])) == 0


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=50), st.integers(2, 5))
def test_gini_is_a_share_and_blind_to_scale(counts: list[int], scale: int) -> None:
    found = gini(np.array(counts))
    assert -1e-12 <= found < 1
    assert gini(scale * np.array(counts)) == pytest.approx(found)


def test_a_profile_by_hand() -> None:
    user_E = np.array([1, 1, 2, 1, 1])
    item_E = np.array([7, 8, 7, 7, 9])
    time_E = np.array([0.0, 1_800.0, 5.0, 9_000.0, 9_001.0])
    found = profile(user_E, item_E, time_E)
    # User 1: [7, 8] (exactly 30 minutes apart), then [7 again, 9]; user 2: [7].
    assert found.sessions == 3
    assert found.session_mean == pytest.approx(5 / 3)
    assert found.session_p50 == 2
    assert found.repeat_rate == pytest.approx(1 / 5)
    assert (found.events, found.users, found.items, found.events_per_user) == (5, 2, 3, 2.5)
    assert found.top_tenth_share == pytest.approx(3 / 5)


def test_an_empty_log_has_no_shape() -> None:
    with pytest.raises(DataRejected, match="no events"):
        profile(np.array([], dtype=np.int64), np.array([], dtype=np.int64), np.array([]))


def test_the_simulation_has_the_shape_of_a_shop(marketplace: Marketplace) -> None:
    found = profile_simulation(marketplace, days=14)
    assert 0.4 < found.popularity_gini < 0.65
    assert 3 < found.session_mean < 5
    assert 0.1 < found.repeat_rate < 0.25
    assert 8 < found.events_per_user < 16


def test_the_command_prints_one_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "u.data"
    log.write_text("1\t7\t5\t100\n1\t8\t3\t100\n2\t7\t4\t200\n")
    assert main(["--format", "movielens", str(log)]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == 3
    log.write_text("1,7,5,100\n")
    assert main(["--format", "movielens", str(log)]) == 3
    assert "whole numbers" in capsys.readouterr().err
    assert main(["--format", "movielens", str(tmp_path / "absent")]) == 6
    assert main(["--format", "diginetica", str(tmp_path)]) == 3
    with pytest.raises(SystemExit, match="2"):
        main(["--format", "movielens"])


@pytest.mark.realdata
def test_real_logs_have_the_stated_shape(realdata: Path) -> None:
    movielens = profile_movielens(realdata / "ml-100k" / "u.data")
    assert (movielens.events, movielens.users, movielens.items) == (100_000, 943, 1_682)
    assert movielens.repeat_rate == 0
    assert movielens.popularity_gini == pytest.approx(0.629, abs=0.001)
    diginetica = profile_diginetica(realdata / "diginetica-weeks")
    assert diginetica.events == 993_483
    assert diginetica.session_p50 == 4

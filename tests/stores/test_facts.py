"""The published facts: what is read is what was written, and half a file is never seen."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.errors import DataRejected, DependencyFailed, UsageError
from stores.facts import FATES, Arrival, Broken, Facts, Hold, publish, read

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS = dict(zip(FATES, (10, 5, 3, 1, 1), strict=True))
moments = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(
    published=moments,
    watermark=st.none() | moments,
    rows=st.fixed_dictionaries(dict.fromkeys(FATES, st.integers(0, 2**53))),
    hold=st.none() | st.builds(Hold, st.text(min_size=1), moments),
    states=st.dictionaries(st.sampled_from(["BAKING", "ROLLED_BACK"]), moments),
    word=st.text(),
)
def test_what_is_read_is_what_was_published(
    tmp_path_factory: pytest.TempPathFactory,
    published: datetime,
    watermark: datetime | None,
    rows: dict[str, int],
    hold: Hold | None,
    states: dict[str, datetime],
    word: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "facts.json"
    arrivals = (Arrival(word, "events", "d-1", published, "committed", rows, f"reports/{word}.html"),)
    facts = Facts(published, 7, watermark, rows, hold, states, arrivals, (Broken(word, "item_id", 3, "d-1", ""),))
    publish(path, facts)
    assert read(path) == facts


def test_a_file_of_a_version_that_told_nothing_of_trials_is_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    publish(path, Facts(NOW, 0, NOW, ROWS, trial_states={"BAKING": NOW}))
    stated = json.loads(path.read_text())
    assert stated.pop("trial_states") == {"BAKING": "2026-03-01T12:00:00.000000Z"}
    assert stated.pop("arrivals") == stated.pop("broken") == []
    path.write_text(json.dumps(stated))
    assert read(path) == Facts(NOW, 0, NOW, ROWS)


def test_nothing_published_is_none_and_what_is_no_facts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    assert read(path) is None
    publish(path, Facts(NOW, 0, NOW, ROWS))
    contents = ["", "[]", "{}", "null", '{"format": 1}', '{"format": 2}', '{"format": 1, "published": "soon"}']
    for content in (*contents, path.read_text().replace("Z", "")):
        path.write_text(content)
        with pytest.raises(DataRejected, match=r"facts\.json: .*; delete it"):
            read(path)


def test_times_are_kept_as_utc_and_a_time_without_zone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    publish(path, Facts(NOW.astimezone(timezone(timedelta(hours=5))), 0, NOW, ROWS))
    assert read(path) == Facts(NOW, 0, NOW, ROWS)
    with pytest.raises(UsageError, match="without zone"):
        publish(path, Facts(NOW.replace(tzinfo=None), 0, NOW, ROWS))
    assert read(path) == Facts(NOW, 0, NOW, ROWS)  # the former stays


def test_a_disk_that_refuses_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "facts.json").mkdir()
    with pytest.raises(DependencyFailed, match="cannot publish the facts"):
        publish(tmp_path / "facts.json", Facts(NOW, 0, None, ROWS))
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]

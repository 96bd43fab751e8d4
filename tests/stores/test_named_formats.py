"""Data sets in their own files: what they say comes out under Ratchet's names, and all of it does."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relations.errors import DataRejected
from relations.parsing import parse
from relations.schemas import SCHEMAS
from stores.readers import diginetica, movielens
from stores.readers.chunks import Chunk
from stores.readers.opening import NAMED, kinds_of, open_delivery
from stores.readers.rowwise import joined, objects


def opened(path: Path, kind: str, format: str, *, uri: str = "", rows: int = 262_144) -> list[Chunk]:
    delivered = open_delivery(path, uri=uri or str(path), kind=kind, format=format, chunk_rows=rows)
    assert delivered.format == (format if format != "auto" else "movielens")
    chunks = list(delivered.chunks)
    assert [chunk.first for chunk in chunks] == [sum(one.rows for one in chunks[:at]) for at in range(len(chunks))]
    assert all(0 < chunk.rows <= rows for chunk in chunks)
    return chunks


def read(folder: Path, data: bytes, *, uri: str, kind: str, format: str, rows: int = 262_144) -> Chunk:
    (folder / "input").write_bytes(data)
    return joined(opened(folder / "input", kind, format, uri=f"/there/{uri}", rows=rows))


def row(chunk: Chunk, number: int) -> dict[str, object]:
    return {name: objects(chunk.column(name))[number] for name in chunk.names}


def count(path: Path, kind: str, format: str) -> int:
    chunks = opened(path, kind, format)
    assert not any(chunk.unreadable for chunk in chunks)
    return sum(chunk.rows for chunk in chunks)


def typed(chunk: Chunk, kind: str) -> pa.Table:
    """The columns as the door types them; nothing unread, no required column without a value."""
    columns = {}
    for field in SCHEMAS[kind]:
        name = "user_id" if field.name == "user" else field.name
        if name in chunk.names:
            parsed = parse(chunk.column(name), field.type)
            assert not parsed.unread
            columns[field.name] = parsed.values
            assert field.nullable or not parsed.values.null_count
    return pa.table(columns)


# MovieLens


def test_movielens_by_name(tmp_path: Path) -> None:
    events = read(tmp_path, b"196\t242\t3\t881250949\n1\t2\n", uri="u.data", kind="events", format="auto")
    assert list(events.unreadable) == [1]
    assert row(events, 0) == {
        "user_id": "196", "item_id": "242", "value": "3", "event_time": "881250949", "behaviour": "rating"
    }  # fmt: skip
    line = "7|Misérables, Les|01-Jan-1995||http://x|" + "|".join("1" if n in (6, 8) else "0" for n in range(19))
    items = read(tmp_path, line.encode("latin-1"), uri="u.item", kind="items", format="auto")
    assert row(items, 0) == {
        "item_id": "7", "title": "Misérables, Les", "release_date": "01-Jan-1995", "categories": ["Crime", "Drama"]
    }  # fmt: skip
    assert items.raw(0) == line.encode("latin-1")
    users = read(tmp_path, b"1|24|M|technician|85711\n", uri="u.user", kind="users", format="auto")
    assert row(users, 0)["occupation"] == "technician"


@pytest.mark.parametrize("uri", ["ratings.dat", "ratings.dat.gz", "renamed"])
def test_movielens_1m(tmp_path: Path, uri: str) -> None:
    events = read(tmp_path, b"1::1193::5::978300760\n", uri=uri, kind="events", format="movielens")
    assert row(events, 0)["item_id"] == "1193"
    data = "1::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1")
    items = read(tmp_path, data, uri=uri.replace("ratings", "movies"), kind="items", format="movielens")
    assert row(items, 0) == {"item_id": "1", "title": "Misérables, Les (1995)", "categories": ["Drama", "Musical"]}


def test_movielens_csv(tmp_path: Path) -> None:
    data = b"userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n"
    events = read(tmp_path, data, uri="ratings.csv", kind="events", format="movielens")
    assert row(events, 0) == {
        "user_id": "1", "item_id": "296", "value": "5.0", "event_time": "1147880044", "behaviour": "rating"
    }  # fmt: skip
    data = b'movieId,title,genres\n1,"Heat, The (1995)",Action|Crime\n2,Nothing,(no genres listed)\n'
    items = read(tmp_path, data, uri="movies.csv", kind="items", format="movielens")
    assert row(items, 0) == {"item_id": "1", "title": "Heat, The (1995)", "categories": ["Action", "Crime"]}
    assert row(items, 1)["categories"] == []


def test_movielens_in_order_without_times(tmp_path: Path) -> None:
    table = pa.table({"user_id": [7, 7], "item_id": [1, 2], "rating": [5, 3], "pos": [0, 90]})
    pq.write_table(table, tmp_path / "t")
    events = read(
        tmp_path, (tmp_path / "t").read_bytes(), uri="ratings_ordered.parquet", kind="events", format="movielens"
    )
    times: Any = objects(events.column("event_time"))
    assert times == [movielens.BASE, movielens.BASE + timedelta(seconds=90)]
    assert typed(events, "events").column("user").to_pylist() == ["7", "7"]


@pytest.mark.realdata
def test_movielens_counts(realdata: Path) -> None:
    small, large = realdata / "ml-100k", realdata / "ml-1m"
    assert count(small / "u.data", "events", "auto") == 100_000
    assert count(small / "u.item", "items", "auto") == 1_682
    assert count(small / "u.user", "users", "auto") == 943
    assert count(large / "ratings_ordered.parquet", "events", "movielens") == 1_000_209
    assert count(large / "movies.dat", "items", "auto") == 3_883
    assert count(large / "users.dat", "users", "auto") == 6_040
    typed(joined(opened(small / "u.data", "events", "auto")), "events")


# Amazon Reviews


def test_amazon_as_published(tmp_path: Path) -> None:
    review = {
        "rating": 5.0,
        "title": "Nice",
        "text": "Very",
        "images": [{"small_image_url": "x"}],
        "asin": "B1",
        "parent_asin": "B0",
        "user_id": "AE",
        "timestamp": 1588687728923,
        "helpful_vote": 0,
        "verified_purchase": True,
    }
    data = gzip.compress(json.dumps(review).encode() + b"\n")
    events = read(tmp_path, data, uri="All_Beauty.jsonl.gz", kind="events", format="amazon")
    assert row(events, 0) == {
        "user_id": "AE", "item_id": "B0", "value": 5.0, "event_time": 1588687728923, "behaviour": "rating"
    }  # fmt: skip
    told = typed(events, "events").column("event_time").to_pylist()
    assert told == [datetime(2020, 5, 5, 14, 8, 48, 923_000, tzinfo=UTC)]  # 1,588,687,728.923 s
    meta = {
        "main_category": "All Beauty",
        "title": "Soap",
        "average_rating": 4.8,
        "price": 9.5,
        "description": ["It is", "soap"],
        "store": "ACME",
        "categories": [],
        "parent_asin": "B0",
    }
    items = read(tmp_path, json.dumps(meta).encode(), uri="meta_All_Beauty.jsonl", kind="items", format="amazon")
    assert row(items, 0) == {
        "item_id": "B0",
        "title": "Soap",
        "price": 9.5,
        "categories": ["All Beauty"],
        "attributes": {"brand": "ACME", "main_category": "All Beauty"},  # its mean rating is of ratings to come
        "description": "It is soap",
    }
    csv = b"user_id,parent_asin,rating,timestamp\nAE,B0,5.0,1588687728923\n"
    events = read(tmp_path, csv, uri="All_Beauty.csv", kind="events", format="amazon")
    assert row(events, 0)["item_id"] == "B0"


@pytest.mark.realdata
def test_amazon_counts(realdata: Path) -> None:
    events = joined(opened(realdata / "amazon2023" / "interactions.parquet", "events", "amazon"))
    assert events.rows == 25_023
    assert len(set(objects(events.column("item_id")))) == 3_700
    items = joined(opened(realdata / "amazon2023" / "items.parquet", "items", "amazon"))
    assert set(objects(events.column("item_id"))) <= set(objects(items.column("item_id")))
    typed(events, "events")
    typed(items, "items")


# MIND

SHOWN = b"""7\tU1\t11/12/2019 2:14:46 PM\tN8 N9\tN1-0 N2-1 N3-1
9\tU2\tnever\t\tN1-0
8\tU2\t11/9/2019 12:00:01 AM\t\tN4-0 N5
8
"""


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_mind_lists_become_exposures_and_clicks(tmp_path: Path, rows: int) -> None:
    shown = read(tmp_path, SHOWN, uri="behaviors.tsv", kind="exposures", format="mind", rows=rows)
    assert shown.rows == 3 + 1 + 2 + 1  # a line that cannot be read is a row
    assert shown.unreadable == {5: "'N5' ends in neither -0 nor -1", 6: "1 fields where the header has 5"}
    second = row(shown, 1)
    assert second["exposure_id"] == "7-20191112141446:2"
    assert (second["request_id"], second["position"], second["item_id"]) == ("7-20191112141446", 2, "N2")
    assert (second["propensity"], second["propensity_kind"]) == (1.0, "unusable")
    assert second["shown_time"] == "2019-11-12T14:14:46Z"
    assert row(shown, 0)["candidate_set_hash"] == second["candidate_set_hash"] != row(shown, 3)["candidate_set_hash"]
    assert row(shown, 3)["shown_time"] == "never"  # the door says that it is no time
    assert row(shown, 4)["shown_time"] == "2019-11-09T00:00:01Z"  # 12 AM is midnight
    assert shown.raw(1) == b"7\tU1\t11/12/2019 2:14:46 PM\t\tN2-1"
    assert shown.raw(6) == b"8"
    clicks = read(tmp_path, SHOWN, uri="behaviors.tsv", kind="events", format="mind", rows=rows)
    assert [row(clicks, at)["item_id"] for at in (0, 1)] == ["N2", "N3"]
    assert clicks.rows == 2 + 2
    assert sorted(clicks.unreadable) == [2, 3]
    assert row(clicks, 0) == {
        "exposure_id": "7-20191112141446:2",
        "event_id": "7-20191112141446:2:click",
        "user_id": "U1",
        "item_id": "N2",
        "behaviour": "click",
        "event_time": "2019-11-12T14:14:46Z",
    }


def test_mind_news(tmp_path: Path) -> None:
    data = b'N1\tnews\t\tA "title"\tWhat\thttps://x\t[]\t[]\n'
    news = read(tmp_path, data, uri="news.tsv", kind="items", format="mind")
    assert row(news, 0) == {"item_id": "N1", "title": 'A "title"', "description": "What", "categories": ["news"]}


@pytest.mark.realdata
def test_mind_counts(realdata: Path) -> None:
    path = realdata / "mind" / "behaviors.tsv.gz"
    shown, clicks = (joined(opened(path, kind, "mind")) for kind in ("exposures", "events"))
    assert (shown.rows, clicks.rows) == (189_359, 7_542)
    told = typed(shown, "exposures")
    assert len(set(told.column("request_id").to_pylist())) == 5_000
    assert (
        not set(SCHEMAS["exposures"].names)
        - set(told.column_names)
        - {*("score", "trial", "bot_rules", "error", "context", "received_time", "source", "delivery_id")}
    )
    ids = set(objects(shown.column("exposure_id")))
    assert len(ids) == shown.rows
    assert set(objects(clicks.column("exposure_id"))) <= ids
    typed(clicks, "events")
    assert count(realdata / "mind" / "news.tsv.gz", "items", "mind") == 2_000


# DIGINETICA


def test_diginetica_times_keep_the_order(tmp_path: Path) -> None:
    start = diginetica.BASE + timedelta(weeks=3)
    clicks = read(tmp_path, b"5 10\n5 11\n6\n", uri="period_3.txt.gz", kind="events", format="diginetica", rows=2)
    assert list(clicks.unreadable) == [2]
    assert row(clicks, 1) == {
        "user_id": "5", "item_id": "11", "behaviour": "click", "event_time": start + timedelta(seconds=0.1)
    }  # fmt: skip


@pytest.mark.realdata
def test_diginetica_counts(realdata: Path) -> None:
    clicks, last = 0, diginetica.BASE
    for week in range(17):
        chunk = joined(opened(realdata / "diginetica-weeks" / f"period_{week}.txt.gz", "events", "diginetica"))
        clicks += chunk.rows
        times: Any = chunk.column("event_time")
        assert last <= times[0].as_py() < times[-1].as_py()
        assert not np.any(np.diff(times.cast(pa.int64()).to_numpy()) <= 0)
        last = times[-1].as_py()
        typed(chunk, "events")
    assert clicks == 993_483


# Open Bandit


def test_openbandit_rounds(tmp_path: Path) -> None:
    head = b",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user-item_affinity_0\n"
    time = b"2019-11-24 00:00:17.004101+00:00"
    data = head + b"0,%b,79,2,1,0.087125,a,b,0.0\n1,%b,3,1,0,0.5,a,b,0.0\n2\n" % (time, time)
    shown = read(tmp_path, data, uri="obd/bts/all/all.csv.gz", kind="exposures", format="openbandit", rows=2)
    assert (shown.rows, list(shown.unreadable)) == (3, [2])
    first = row(shown, 0)
    assert (first["exposure_id"], first["request_id"]) == ("bts-all-0:2", "bts-all-0")
    assert (first["policy"], first["surface"], first["item_id"]) == ("bts", "openbandit-all", "all-79")
    assert (first["propensity"], first["propensity_kind"], first["position"]) == ("0.087125", "exact", "2")
    assert first["user_id"] == row(shown, 1)["user_id"]  # the same features: the same segment
    assert json.loads(str(first["context"])) == {"user_feature_0": "a", "user_feature_1": "b"}
    clicks = read(tmp_path, data, uri="obd/bts/all/all.csv.gz", kind="events", format="openbandit")
    assert (clicks.rows, list(clicks.unreadable)) == (2, [1])
    assert row(clicks, 0)["exposure_id"] == first["exposure_id"]


@pytest.mark.realdata
def test_openbandit_counts(realdata: Path) -> None:
    for policy in ("random", "bts"):
        for campaign in ("all", "men"):
            path = realdata / "obd" / policy / campaign / f"{campaign}.csv.gz"
            shown, clicks = (joined(opened(path, kind, "openbandit")) for kind in ("exposures", "events"))
            assert shown.rows == 10_000
            assert 38 <= clicks.rows <= 69
            told = typed(shown, "exposures")
            assert len(set(told.column("exposure_id").to_pylist())) == 10_000
            assert set(told.column("position").to_pylist()) == {1, 2, 3}
            assert set(told.column("policy").to_pylist()) == {policy}
            typed(clicks, "events")


# Which kinds


@pytest.mark.parametrize(
    ("uri", "format", "head", "kinds"),
    [
        ("mind/behaviors.tsv.gz", "mind", b"", ("exposures", "events")),
        ("mind/news.tsv", "mind", b"", ("items",)),
        ("spooled", "mind", SHOWN, ("exposures", "events")),
        ("spooled", "mind", gzip.compress(SHOWN), ("exposures", "events")),
        ("u.data", "auto", b"1\t2\t3\t4\n", ("events",)),
        ("u.item", "auto", b"", ("items",)),
        ("users.dat", "movielens", b"", ("users",)),
        ("ratings.csv", "movielens", b"userId,movieId,rating,timestamp\n", ("events",)),
        ("movies.csv", "movielens", b"movieId,title,genres\n", ("items",)),
        ("tags.csv", "movielens", b"userId,movieId,tag,timestamp\n", ()),
        ("x.parquet", "movielens", b"PAR1", ("events",)),
        ("items.parquet", "amazon", b"PAR1", ("items",)),
        ("interactions.parquet", "amazon", b"PAR1", ("events",)),
        ("x.jsonl", "amazon", b'{"title": "x", "parent_asin": "y"}\n', ("items",)),
        ("period_3.txt.gz", "diginetica", b"", ("events",)),
        ("readme.txt", "diginetica", b"", ()),
        ("all.csv", "openbandit", b",timestamp,item_id,position,click,propensity_score\n", ("exposures", "events")),
        ("item_context.csv", "openbandit", b",item_id,item_feature_0\n", ()),
        ("e.csv", "auto", b"a,b\n", ()),
        ("e.csv", "csv", b"a,b\n", ()),
    ],
)
def test_which_kinds_a_file_delivers(uri: str, format: str, head: bytes, kinds: tuple[str, ...]) -> None:
    assert kinds_of(uri, format, head) == kinds


def test_a_kind_that_a_file_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataRejected, match=r"behaviors.tsv: .*it holds exposures and events, no items: name the --kind"
    ):
        read(tmp_path, SHOWN, uri="behaviors.tsv", kind="items", format="mind")
    with pytest.raises(DataRejected, match=r"readme.txt: .*as diginetica it is no file of it; read are period_N.txt"):
        read(tmp_path, b"hello\n", uri="readme.txt", kind="events", format="diginetica")


@pytest.mark.parametrize("format", NAMED)
def test_broken_files_of_a_data_set_are_named(tmp_path: Path, format: str) -> None:
    uri = {"movielens": "u.data", "mind": "behaviors.tsv", "diginetica": "period_0.txt"}.get(format, "e.csv")
    for data in (b"\x1f\x8b\x08\0cut", b"PK\x03\x04", b"\0\xff" * 500, "é\n".encode("utf-16")):
        with pytest.raises(DataRejected, match=f"/there/{uri}: .*offset"):
            read(tmp_path, data, uri=uri, kind="events", format=format)
    (tmp_path / "input").write_bytes(b"\n")
    assert opened(tmp_path / "input", "events", format, uri=uri) == []

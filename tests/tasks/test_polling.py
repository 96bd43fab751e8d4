"""Polled sources through the door: objects and topics, each new thing exactly once, through kills as without them."""

import gzip
import io
import json
import logging
import multiprocessing
import random
import runpy
import signal
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relations.errors import UsageError
from stores.delivery import Receipt
from stores.failpoints import INGEST
from stores.home import Home
from stores.lake import COUNTS, Lake
from stores.settings import Settings, SourceSettings, ValidationSettings
from tasks.ingesting import deliver_file
from tasks.polling import poll_sources

SCRIPT = str(Path(__file__).with_name("polling_process.py"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "geheimnis-4711"


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """The options that reach an S3 server with a bucket `shop`; the secret is in the environment."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_TEST_SECRET", SECRET)
        options = {"key": "shop-key", "secret": "env:RATCHET_TEST_SECRET", "endpoint_url": f"http://{host}:{port}"}
        system(options).makedirs("shop", exist_ok=True)  # moto keeps one state a process
        yield options
    server.stop()


def system(options: Mapping[str, str]) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("s3", **{**options, "secret": SECRET})


@pytest.fixture(scope="module")
def cluster() -> "Cluster":
    pytest.importorskip("confluent_kafka")
    return Cluster()


class Cluster:
    """One broker of librdkafka's mock cluster, reached over TCP as a real one is."""

    def __init__(self) -> None:
        from confluent_kafka import Producer

        self.producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 0})
        broker = next(iter(self.producer.list_topics(timeout=10).brokers.values()))
        self.address = f"{broker.host}:{broker.port}"

    def produce(self, topic: str, values: list[bytes | None]) -> None:
        """Message n goes to partition n mod 3."""
        for number, value in enumerate(values):
            self.producer.produce(topic, value=value, partition=number % 3)
        assert self.producer.flush(10) == 0


def of(**sources: SourceSettings) -> Settings:
    # Which messages share a batch is not ours to say: none is to be held for its share of broken ones.
    return Settings(sources=sources, validation=ValidationSettings(max_failing_share=1.0))


def event(number: int, *, days: float = 0.0, behaviour: str = "click") -> dict[str, str]:
    moment = NOW - timedelta(days=days, minutes=number)
    return {
        "event_id": f"e{number}",
        "user_id": f"ü{number % 7}",
        "item_id": f"i{number % 5}",
        "behaviour": behaviour,
        "event_time": moment.isoformat(),
    }


def lines(numbers: range) -> bytes:
    return b"".join(json.dumps(event(number)).encode() + b"\n" for number in numbers)


def counts(receipt: Receipt) -> tuple[int, ...]:
    return tuple(getattr(receipt, name) for name in COUNTS)


def polled(home: Home, settings: Settings, *, later: int = 0) -> list[tuple[int, ...]]:
    found = poll_sources(home=home, settings=settings, now=NOW + timedelta(minutes=later))
    assert found.failures == ()
    return [counts(receipt) for receipt in found.receipts]


def test_objects_of_three_formats_by_name(home: Home, bucket: dict[str, str]) -> None:
    rows = [event(number) for number in range(6)]
    csv = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows[:2])]).encode()
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows[2:4]), table)
    data = {"a.csv.gz": gzip.compress(csv), "b.parquet": table.getvalue(), "c.jsonl": lines(range(4, 6))}
    for name, content in data.items():
        system(bucket).pipe(f"shop/formats/{name}", content)
    settings = of(shop=SourceSettings(options=bucket))
    for name in data:
        receipt = deliver_file(f"s3://shop/formats/{name}", home=home, settings=settings, source="shop", now=NOW)
        assert counts(receipt) == (2, 2, 0, 0, 0)
        assert receipt.uri == f"s3://shop/formats/{name}"
    with pytest.raises(UsageError, match=r"s3://shop/formats/d\.csv: no such object"):
        deliver_file("s3://shop/formats/d.csv", home=home, settings=settings, source="shop", now=NOW)
    assert Lake(home.lake).totals()["accepted"] == 6


def test_each_object_is_delivered_once_and_again_when_it_changes(home: Home, bucket: dict[str, str]) -> None:
    files = system(bucket)
    files.pipe({"shop/poll/1.jsonl.gz": gzip.compress(lines(range(3))), "shop/poll/2.jsonl": lines(range(3, 5))})
    settings = of(shop=SourceSettings(uri="s3://shop/poll", options=bucket))
    assert polled(home, settings) == [(3, 3, 0, 0, 0), (2, 2, 0, 0, 0)]
    assert polled(home, settings, later=1) == []
    files.pipe("shop/poll/2.jsonl", lines(range(3, 8)))  # three more events than before
    files.pipe("shop/poll/0.jsonl", lines(range(8, 9)))
    assert polled(home, settings, later=2) == [(1, 1, 0, 0, 0), (5, 3, 0, 2, 0)]
    assert polled(home, settings, later=3) == []
    # The same objects as another source are another matter.
    again = of(other=SourceSettings(uri="s3://shop/poll/*.jsonl", options=bucket))
    assert polled(home, again) == [(1, 0, 0, 1, 0), (5, 0, 0, 5, 0)]


def test_an_object_is_judged_as_a_stream_and_an_unreadable_one_is_done(home: Home) -> None:
    memory = fsspec.filesystem("memory")
    old = json.dumps(event(2, days=9)).encode()
    memory.pipe(
        {"/feed/1.jsonl": lines(range(2)), "/feed/2.jsonl": old, "/feed/3.jsonl": b"\0" * 99, "/feed/4.csv": b""}
    )
    try:
        settings = of(feed=SourceSettings(uri="memory://feed"))
        found = poll_sources(home=home, settings=settings, now=NOW)
        assert found.failures == ()
        states = {receipt.uri.partition("#")[0]: (receipt.state, *counts(receipt)) for receipt in found.receipts}
        assert states == {
            "memory://feed/1.jsonl": ("committed", 2, 2, 0, 0, 0),
            "memory://feed/2.jsonl": ("committed", 1, 0, 0, 0, 1),  # nine days before the watermark
            "memory://feed/3.jsonl": ("unreadable", 0, 0, 0, 0, 0),
            "memory://feed/4.csv": ("empty", 0, 0, 0, 0, 0),
        }
        assert polled(home, settings, later=1) == []
    finally:
        memory.rm("/feed", recursive=True)


def test_a_source_that_fails_stops_no_other(home: Home, tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "feed").mkdir()
    (tmp_path / "feed" / "1.jsonl").write_bytes(lines(range(3)))
    (tmp_path / "feed" / "2.jsonl").mkdir()
    found = poll_sources(
        home=home,
        settings=of(
            a=SourceSettings(uri="http://me:geheim@127.0.0.1:1/x.csv"),
            b=SourceSettings(uri=str(tmp_path / "none")),
            c=SourceSettings(uri="foo://x"),
            d=SourceSettings(uri="kafka://nowhere"),
            e=SourceSettings(uri=f"kafka://{cluster.address}/e", format="csv"),
            f=SourceSettings(uri="s3://b/x", options={"secret": "env:RATCHET_NO_SUCH"}),
            y=SourceSettings(uri=str(tmp_path / "feed")),
            z=SourceSettings(format="csv"),  # not polled
        ),
        now=NOW,
    )
    assert [counts(receipt) for receipt in found.receipts] == [(3, 3, 0, 0, 0)]
    told = {failure.source: failure.message for failure in found.failures}
    assert list(told) == ["a", "b", "c", "d", "e", "f"]
    assert "127.0.0.1:1/x.csv: cannot be reached" in told["a"]
    assert "geheim" not in str(found)
    assert "no such object" in told["b"]
    assert "messages are read as JSON" in told["e"]
    assert "RATCHET_NO_SUCH" in told["f"]


def test_objects_that_fail_end_the_turn_of_their_source_when_there_are_many(home: Home, tmp_path: Path) -> None:
    for number in (0, 2, 7):
        (tmp_path / f"{number}.jsonl").write_bytes(lines(range(number, number + 1)))
    for number in (1, 3, 4, 5, 6):  # links into the void
        (tmp_path / f"{number}.jsonl").symlink_to(tmp_path / "void")
    found = poll_sources(home=home, settings=of(feed=SourceSettings(uri=f"{tmp_path}/*.jsonl")), now=NOW)
    assert [Path(receipt.uri.partition("#")[0]).name for receipt in found.receipts] == ["0.jsonl", "2.jsonl"]
    told = [failure.message.partition(": ")[0] for failure in found.failures]
    assert told == [f"{tmp_path}/{number}.jsonl" for number in (1, 3, 4, 5)]


def test_no_secret_is_stored_or_told(home: Home, bucket: dict[str, str]) -> None:
    system(bucket).pipe("shop/secret/1.jsonl", lines(range(3)))
    plain = {**bucket, "secret": SECRET}
    settings = of(shop=SourceSettings(uri="s3://shop/secret", options=plain))
    (home.staging / "x").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stores.delivery.discard", lambda _: None)  # keep what staging held
        (receipt,) = poll_sources(home=home, settings=settings, now=NOW).receipts
    assert SECRET not in str(receipt)
    files = [path for path in home.root.rglob("*") if path.is_file()]
    assert any(path.name == "intent.json" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def messages(first: int) -> list[bytes | None]:
    """60 messages: 40 events, 5 of them once more, 5 too late, 5 broken rows, 5 that are no rows at all."""
    fine = [event(number) for number in range(first, first + 40)]
    late = [event(number, days=9) for number in range(first + 40, first + 45)]
    broken = [event(number, behaviour="hover") for number in range(first + 45, first + 50)]
    rows = [
        json.dumps(row, indent=number % 2 or None).encode()
        for number, row in enumerate([*fine, *fine[:5], *late, *broken])
    ]
    return [*rows, None, b"", b"\xff{}", b"{}\n{}", b"PAR1"]


def test_a_topic_is_read_batch_by_batch_and_on_from_there(home: Home, cluster: Cluster) -> None:
    source = SourceSettings(uri=f"kafka://{cluster.address}/clicks", batch_rows=25)
    settings = of(clicks=source)
    cluster.produce("clicks", [json.dumps(event(0)).encode()])
    assert polled(home, settings) == [(1, 1, 0, 0, 0)]  # sets the watermark
    cluster.produce("clicks", messages(1))
    batches = polled(home, settings, later=1)
    assert [each[0] for each in batches] == [25, 25, 10]
    assert [sum(column) for column in zip(*batches, strict=True)] == [60, 40, 10, 5, 5]
    assert polled(home, settings, later=2) == []
    lake = Lake(home.lake)
    offsets = [lake.offset("deliveries", f"kafka:clicks:clicks:{partition}") for partition in range(4)]
    assert offsets == [21, 20, 20, 0]
    assert lake.read("events", columns=["source"]).column("source").unique().to_pylist() == ["clicks"]
    uris = lake.read("deliveries", columns=["uri"]).column("uri").to_pylist()
    assert f"kafka://{cluster.address}/clicks#0:1,1:0,2:0,3:0" in uris


def test_messages_lost_by_retention_are_a_warning_on_the_receipt(home: Home, cluster: Cluster) -> None:
    settings = of(short=SourceSettings(uri=f"kafka://{cluster.address}/short"))
    cluster.produce("short", [json.dumps(event(0)).encode()])
    assert polled(home, settings) == [(1, 1, 0, 0, 0)]
    for number in range(12):  # of 12 MB the mock cluster keeps the newest five
        cluster.produce("short", [json.dumps({**event(number), "note": "x" * 950_000}).encode()])
    (receipt,) = poll_sources(home=home, settings=settings, now=NOW).receipts
    assert 1 < receipt.delivered < 12
    gone = 12 - receipt.delivered
    assert f"short[0]: offsets 1 to {gone} are gone before they were read ({gone} at most)" in "\n".join(
        receipt.warnings
    )


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Children fork from a server that has imported Great Expectations once."""
    context = multiprocessing.get_context("forkserver")
    heavy = ["great_expectations", "pandas", "ibis.backends.duckdb", "pyarrow.dataset", "deltalake", "fsspec"]
    context.set_forkserver_preload([*heavy, "tasks.polling"])
    return context


def killed(
    context: ForkServerContext, home: Home, settings: Settings, *, at: str = "", after: float = 0.0
) -> int | None:
    """Poll in a process that dies at a fail point, or after so many seconds; its exit code."""
    given = {"root": str(home.root), "fail_at": at, "settings": settings.model_dump_json(), "now": NOW.isoformat()}
    process = context.Process(target=runpy.run_path, args=(SCRIPT,), kwargs={"init_globals": given})
    process.start()
    if after:
        time.sleep(after)
        process.kill()
    process.join(timeout=120)
    return process.exitcode


def test_a_poll_killed_anywhere_loses_and_doubles_nothing(
    home: Home, tmp_path: Path, cluster: Cluster, processes: ForkServerContext
) -> None:
    feed = tmp_path / "feed"
    feed.mkdir()
    (feed / "1.jsonl").write_bytes(lines(range(1_000, 1_010)))
    (feed / "2.jsonl").write_bytes(lines(range(1_005, 1_015)))
    topic = SourceSettings(uri=f"kafka://{cluster.address}/kills", batch_rows=60)
    cluster.produce("kills", [json.dumps(event(0)).encode(), *messages(1)[:50]])
    points = [point for point in INGEST if point != "ingest.landing"]
    for point in points:  # one delivery, cut at every point in turn
        assert killed(processes, home, of(topic=topic), at=point) == -signal.SIGKILL, point
    settings = of(feed=SourceSettings(uri=str(feed)), topic=topic)
    for point in ("ingest.spooled", "ingest.accepted", "ingest.receipt"):
        assert killed(processes, home, settings, at=point) == -signal.SIGKILL, point
    draw = random.Random(5)
    for first in (100, 200):
        cluster.produce("kills", messages(first))
        killed(processes, home, settings, after=draw.uniform(0.2, 1.5))
    assert killed(processes, home, settings) == 0
    lake = Lake(home.lake)
    totals = lake.totals()
    assert totals["delivered"] == 1 + 50 + 2 * 60 + 20  # messages, and rows of two files
    assert sum(totals.values()) == 2 * totals["delivered"]  # accepted + quarantined + duplicate + late
    ids = lake.read("events", columns=["event_id"]).column("event_id").to_pylist()
    assert len(ids) == len(set(ids)) == totals["accepted"]
    fine = {f"e{number}" for first in (1, 100, 200) for number in range(first, first + 40)}
    assert fine | {"e0"} | {f"e{number}" for number in range(1_000, 1_015)} <= set(ids)
    assert sum(lake.offset("deliveries", f"kafka:topic:kills:{partition}") or 0 for partition in range(4)) == 171
    assert list(home.staging.iterdir()) == []
    assert polled(home, settings) == []

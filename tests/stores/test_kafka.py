"""Kafka topics over the client's real protocol: librdkafka's mock cluster listens on a TCP port of this machine."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.errors import DependencyFailed, UsageError
from stores.kafka import Gathered, address, line, topic

pytest.importorskip("confluent_kafka")


class Cluster:
    """One broker; a topic comes into being with its first message and has four partitions."""

    def __init__(self) -> None:
        from confluent_kafka import Producer

        self.producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 0})
        broker = next(iter(self.producer.list_topics(timeout=10).brokers.values()))
        self.address = f"{broker.host}:{broker.port}"

    def uri(self, name: str) -> str:
        return f"kafka://{self.address}/{name}"

    def produce(self, name: str, values: list[bytes | None], *, partitions: int = 3) -> None:
        """Message n goes to partition n mod `partitions`."""
        for number, value in enumerate(values):
            self.producer.produce(name, value=value, partition=number % partitions)
        assert self.producer.flush(10) == 0


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


def gather(uri: str, starts: dict[int, int], *, rows: int = 1_000) -> tuple[Gathered, list[object]]:
    into = io.BytesIO()
    with topic(uri, {}, source="s") as reader:
        gathered = reader.gather(starts, into=into, rows=rows, seconds=5)
    return gathered, [json.loads(each) for each in into.getvalue().splitlines()]


def test_batches_follow_each_other_without_gap_or_repetition(cluster: Cluster) -> None:
    cluster.produce("log", [b'{"n": %d}' % number for number in range(30)])
    seen: list[object] = []
    sizes = []
    starts: dict[int, int] = {}
    with topic(cluster.uri("log"), {}, source="s") as reader:
        assert reader.ends == {0: 10, 1: 10, 2: 10, 3: 0}
        more = True
        while more:
            into = io.BytesIO()
            gathered = reader.gather(starts, into=into, rows=7, seconds=5)
            seen += [json.loads(each)["n"] for each in into.getvalue().splitlines()]
            sizes.append(gathered.rows)
            starts |= gathered.ends
            more = gathered.more
            assert gathered.warnings == ()
    assert sizes == [7, 7, 7, 7, 2]  # 30 messages
    assert sorted(seen) == list(range(30))  # type: ignore[type-var]
    assert starts == {0: 10, 1: 10, 2: 10, 3: 0}
    # A poll begins exactly behind the last one, and ends at once where there is nothing new.
    assert gather(cluster.uri("log"), starts) == (Gathered(0, {}, (), more=False), [])
    cluster.produce("log", [b'{"n": 30}'])
    assert gather(cluster.uri("log"), starts) == (Gathered(1, {0: 11}, (), more=False), [{"n": 30}])


def test_offsets_that_are_gone_are_told(cluster: Cluster) -> None:
    # The mock cluster keeps 5 MiB a partition: of 60 messages of 200,000 bytes the oldest are gone.
    for _ in range(60):
        cluster.produce("short", [b'{"text": "' + b"x" * 200_000 + b'"}'])
    gathered, _ = gather(cluster.uri("short"), {0: 2})
    first = 60 - gathered.rows
    assert 2 < first < 60
    assert gathered.ends[0] == 60
    (told,) = gathered.warnings
    assert told.startswith(f"short[0]: offsets 2 to {first - 1} are gone before they were read ({first - 2} at most)")
    assert gather(cluster.uri("short"), {})[0].warnings == ()  # a first poll misses nothing that it was owed


def test_a_topic_made_anew_is_read_from_its_beginning(cluster: Cluster) -> None:
    cluster.produce("anew", [b'{"n": 0}', b'{"n": 1}'], partitions=1)
    gathered, rows = gather(cluster.uri("anew"), {0: 500})
    assert rows == [{"n": 0}, {"n": 1}]
    assert gathered.ends[0] == 2
    assert gathered.warnings[0].startswith("anew[0]: was read up to offset 500 and ends at 2 now")


def test_what_is_wrong_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    down = topic("kafka://127.0.0.1:1/t", {"sasl.password": "geheim"}, source="s", seconds=0.5)
    with (
        pytest.raises(DependencyFailed, match=r"^127\.0\.0\.1:1: the Kafka broker did not serve topic t .*refused"),
        down,
    ):
        pass
    for options, message in [
        ({"bogus": "x"}, r"\[sources.s\] options: .*bogus"),
        ({"enable.auto.commit": "true"}, "enable.auto.commit is set by Ratchet"),
        ({"sasl.password": "env:RATCHET_NO_SUCH"}, "RATCHET_NO_SUCH is not set"),
        # What librdkafka repeats of a value is hidden where the value is a secret.
        ({"security.protocol": "hunter2", "sasl.password": "env:RATCHET_TEST_PASSWORD"}, r'"\*\*\*"'),
    ]:
        monkeypatch.setenv("RATCHET_TEST_PASSWORD", "hunter2")
        with pytest.raises(UsageError, match=message), topic("kafka://127.0.0.1:1/t", options, source="s"):
            pass
    with pytest.raises(UsageError, match="no topic named absent"), topic(cluster.uri("absent"), {}, source="s"):
        pass
    for uri in ("kafka://host/t", "kafka://host:1", "kafka://host:1/a b", "kafka:///t", "kafka://host:1,/t"):
        with pytest.raises(UsageError, match=r"write kafka://host:port\[,host:port\]/topic"):
            address(uri)
    with pytest.raises(UsageError, match=r"sasl\.username") as error:
        address("kafka://me:geheim@host:1/t")
    assert "geheim" not in str(error.value)
    assert address("kafka://a:1,b:2/t.x") == ("a:1,b:2", "t.x")


OBJECTS = st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text()))


@given(
    st.none() | st.binary() | st.text().map(str.encode) | OBJECTS.map(lambda row: json.dumps(row, indent=1).encode())
)
def test_a_message_is_one_line(value: bytes | None) -> None:
    """Whatever it holds: one line end, at its end, and a first byte that no reader takes for another format's."""
    written = line(value, place="t[0] offset 7")
    assert written.count(b"\n") == 1
    assert written.endswith(b"\n")
    assert b"\r" not in written
    assert b"\0" not in written
    assert written[:1] in (b"{", b'"')
    written.decode()


@given(OBJECTS, st.sampled_from([None, 1]), st.booleans())
def test_an_object_comes_through_as_it_is(row: dict[str, object], indent: int | None, ascii_only: bool) -> None:
    said = json.dumps(row, indent=indent, ensure_ascii=ascii_only)
    if said.isascii() or not any("\ud800" <= character <= "\udfff" for character in said):
        assert json.loads(line(said.encode(), place="t[0] offset 7")) == row


def test_what_is_no_object_says_so() -> None:
    told = {
        None: "a tombstone (null)",
        b"": "no JSON object",
        b"PAR1": "no JSON object: PAR1",
        b"[1]": "no JSON object: [1]",
        b"{\xff}": "not UTF-8 at byte 1: {\\xff}",
        b'{"a": "x\ny"}': 'not JSON: Invalid control character at: line 1 column 9 (char 8): {"a": "x\ny"}',
    }
    for value, message in told.items():
        assert json.loads(line(value, place="t[2] offset 9")) == f"t[2] offset 9: {message}"
    assert line(b'\xef\xbb\xbf {"a":\n"\xef\xbf\xbd"} ', place="") == b'{"a": "\\ufffd"}\n'

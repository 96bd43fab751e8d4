"""A Kafka topic, read from stated offsets: what it holds goes into one JSON-lines file, one line a message.

The truth about what was read is with the caller (the receipts' app transactions), never with Kafka: partitions are
assigned, no consumer group is joined and nothing is committed. Only messages of committed transactions are read.
"""

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from relations.errors import DependencyFailed, UsageError
from stores.remote import resolved, scrubbed

if TYPE_CHECKING:
    from confluent_kafka import Consumer

PROTOCOL = "kafka://"
TIMEOUT_SECONDS = 10.0
"""For the broker's first answer; a poll's own limit begins after it."""
_AT_ONCE = 1_000
_BREATH_SECONDS = 0.05
_LOG = logging.getLogger(__name__)
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_BROKERS = re.compile(r"[^\s,:@/]+:\d{1,5}(,[^\s,:@/]+:\d{1,5})*")
_OURS = {
    "bootstrap.servers": "",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
}
# librdkafka fetches ahead of its reader; more would be memory for nothing. What it would log as an error comes to the
# callback, and from there into ours. The source's options may say otherwise.
_DEFAULTS = {"queued.max.messages.kbytes": 16_384, "fetch.wait.max.ms": 100, "log_level": 2}


@dataclass(frozen=True)
class Gathered:
    """What one poll wrote. `ends`: partition → the offset to go on from, for each that moved.

    `warnings`: a partition whose stated offset the broker does not hold. `more`: messages that were there when the
    reader was opened are still to come.
    """

    rows: int
    ends: Mapping[int, int]
    warnings: tuple[str, ...]
    more: bool


def address(uri: str) -> tuple[str, str]:
    """(brokers, topic) of kafka://host:port[,host:port]/topic. Raises UsageError."""
    brokers, _, topic = uri.removeprefix(PROTOCOL).partition("/")
    if "@" in brokers:
        raise UsageError("a kafka:// URI holds credentials; put sasl.username and sasl.password among the options")
    if not uri.startswith(PROTOCOL) or not _BROKERS.fullmatch(brokers) or not _TOPIC.fullmatch(topic):
        raise UsageError(f"{uri}: write kafka://host:port[,host:port]/topic")
    return brokers, topic


def line(value: bytes | None, *, place: str) -> bytes:
    """The message as one line that a JSON-lines reader takes for exactly one row; `place` names it where it is broken.

    An object comes through as it is. Anything else becomes a JSON text that says what is wrong and repeats the
    message: no reader can then take a message for two rows, none, or the file for another format.
    """
    if value is None:
        return _broken(place, "a tombstone (null)", b"")
    try:
        text = value.removeprefix(b"\xef\xbb\xbf").decode().strip(" \t\r\n")
    except UnicodeDecodeError as error:
        return _broken(place, f"not UTF-8 at byte {error.start}", value)
    if not text.startswith("{"):
        return _broken(place, "no JSON object", value)
    if any(mark in text for mark in "\n\r\0\ufffd"):
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            return _broken(place, f"not JSON: {error}", value)
        # It is JSON, so line ends stand between its tokens only, and the sign that many take for broken text (as
        # readers do, who would refuse the whole file for it) stands in its texts only.
        text = text.replace("\n", " ").replace("\r", " ").replace("\ufffd", "\\ufffd")
    return text.encode() + b"\n"


def _broken(place: str, fault: str, value: bytes) -> bytes:
    said = value.decode("utf-8", "backslashreplace")
    return json.dumps(f"{place}: {fault}" + (f": {said}" if value else "")).encode() + b"\n"


@contextmanager
def topic(
    uri: str, options: Mapping[str, str], *, source: str, seconds: float = TIMEOUT_SECONDS
) -> Iterator["TopicReader"]:
    """The topic of kafka://host:port[,host:port]/topic, opened for one poll; `options` go to librdkafka.

    Raises UsageError (URI, options, no such topic), DependencyFailed naming the brokers when none answers in `seconds`,
    also from within.
    """
    brokers, name = address(uri)
    stated = resolved(options)
    if taken := sorted(_OURS.keys() & stated.keys()):
        raise UsageError(f"[sources.{source}] options: {', '.join(taken)} is set by Ratchet; leave it out")
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError:
        raise UsageError(f"{uri}: needs a package that is missing; pip install confluent-kafka") from None
    heard: list[str] = []
    ours = {**_OURS, "bootstrap.servers": brokers, "error_cb": lambda error: heard.append(str(error.str()))}
    try:
        consumer = Consumer({"group.id": f"ratchet-{source}", **_DEFAULTS, **stated, **ours}, logger=_LOG)
    except (KafkaException, TypeError, ValueError) as error:
        said = scrubbed(_reason(error), uri, stated)
        raise UsageError(
            f"[sources.{source}] options: not understood by the Kafka client ({said}); mend them"
        ) from None
    try:
        yield TopicReader(consumer, brokers=brokers, topic=name, seconds=seconds)
    except KafkaException as error:
        consumer.poll(0)  # what the client's own threads have met comes by way of its callback
        said = scrubbed("; ".join([_reason(error), *heard[-1:]]), uri, stated)
        raise DependencyFailed(
            f"{brokers}: the Kafka broker did not serve topic {name} ({said}); check that it is up, its address as it "
            "is advertised, and the source's options (security.protocol, sasl.…), then repeat"
        ) from None
    finally:
        consumer.close()


class TopicReader:
    """One consumer of one topic. `ends`: partition → the offset behind its newest message when this was opened."""

    def __init__(self, consumer: "Consumer", *, brokers: str, topic: str, seconds: float) -> None:
        self._consumer, self._brokers, self._topic, self._seconds = consumer, brokers, topic, seconds
        self.ends = {partition: self._held(partition)[1] for partition in self._partitions()}

    def gather(self, starts: Mapping[int, int], *, into: BinaryIO, rows: int, seconds: float) -> Gathered:
        """Write at most `rows` messages from `starts` (a partition without one: its oldest) to `self.ends` or beyond.

        Ends `seconds` after the broker's first answer at the latest. Raises DependencyFailed when none comes.
        """
        from confluent_kafka import KafkaError, TopicPartition

        at, warnings = self._begin(starts)
        waiting = {partition for partition, offset in at.items() if offset < self.ends[partition]}
        self._consumer.assign([TopicPartition(self._topic, partition, at[partition]) for partition in sorted(waiting)])
        written, answered = 0, False
        deadline = time.monotonic() + self._seconds
        while waiting and written < rows and time.monotonic() < deadline:
            for message in self._consumer.consume(min(rows - written, _AT_ONCE), timeout=_BREATH_SECONDS):
                partition, error = cast(int, message.partition()), message.error()
                if error is None:
                    offset = cast(int, message.offset())
                    into.write(line(message.value(), place=f"{self._topic}[{partition}] offset {offset}"))
                    written += 1
                    at[partition] = offset + 1
                elif error.code() != KafkaError._PARTITION_EOF:
                    _raise_unless_passing(error)
                    continue
                if error is not None or at[partition] >= self.ends[partition]:
                    waiting.discard(partition)
                if not answered:
                    answered, deadline = True, time.monotonic() + seconds
        self._consumer.unassign()
        if waiting and not answered:
            raise DependencyFailed(
                f"{self._brokers}: no message of topic {self._topic} came in {self._seconds:g} s, though partition "
                f"{min(waiting)} holds offset {at[min(waiting)]}; check the leaders of its partitions, then repeat"
            )
        moved = {partition: offset for partition, offset in at.items() if offset != starts.get(partition)}
        return Gathered(written, moved, warnings, more=bool(waiting))

    def _begin(self, starts: Mapping[int, int]) -> tuple[dict[int, int], tuple[str, ...]]:
        """(the offset that each partition is read from, a warning for each that is not the one stated)."""
        at: dict[int, int] = {}
        warnings = []
        for partition in self.ends:
            low, high = self._held(partition)
            at[partition] = stated = starts.get(partition, low)
            place = f"{self._topic}[{partition}]"
            if stated < low:
                warnings.append(
                    f"{place}: offsets {stated} to {low - 1} are gone before they were read ({low - stated} at most); "
                    "deliver them from their origin, and lengthen the topic's retention"
                )
                at[partition] = low
            elif stated > high:
                warnings.append(
                    f"{place}: was read up to offset {stated} and ends at {high} now, so the topic was made anew or "
                    f"cut; read from offset {low}"
                )
                at[partition] = low
        return at, tuple(warnings)

    def _held(self, partition: int) -> tuple[int, int]:
        """The oldest offset that the broker holds, and the one behind the newest."""
        from confluent_kafka import TopicPartition

        found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=self._seconds)
        if found is None:
            raise DependencyFailed(
                f"{self._brokers}: the Kafka broker did not tell the offsets of {self._topic}[{partition}] within "
                f"{self._seconds:g} s; check that it is up, then repeat"
            )
        low, high = found
        return int(low), int(high)

    def _partitions(self) -> list[int]:
        from confluent_kafka import KafkaError, KafkaException

        found = self._consumer.list_topics(self._topic, timeout=self._seconds).topics[self._topic]
        if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise UsageError(f"{self._brokers}: no topic named {self._topic}; check the URI, or create it")
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)


def _raise_unless_passing(error: Any) -> None:
    """librdkafka itself repeats what may pass, a lost connection among it."""
    from confluent_kafka import KafkaError, KafkaException

    if not (error.retriable() or error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)):
        raise KafkaException(error)


def _reason(error: Exception) -> str:
    """librdkafka's words, without Python's around them."""
    said = error.args[0] if error.args else error
    return str(said.str() if hasattr(said, "str") else said)

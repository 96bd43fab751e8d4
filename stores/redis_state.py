"""User state in Redis: for several servers, which then know the same of each user and count each feedback once.

Redis may be down or stalled: a read then costs one timeout, once a second, and gives no history; what is told meanwhile
is kept in memory and absorbed when Redis is back (and by the next ingest, for the log has it). Preferences are written
to the home's files too, and read from both, so that what a user turned off stays off whatever becomes of Redis.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar, cast

import redis
from redis import asyncio as redis_asyncio
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from relations.errors import DependencyFailed, UsageError
from stores.breaker import Breaker
from stores.preferences import NO_PREFERENCES, PreferenceFiles, Preferences, later
from stores.redis_rows import (
    ADD,
    FORGET,
    KNOWN,
    PREFER,
    READ,
    RENAME,
    KeyNames,
    by_user,
    group_of,
    packed,
    unpacked,
)
from stores.remote import resolved, scrubbed, shown
from stores.user_states import KEPT, PastEvent, Remembered, Row

OPTIONS = frozenset(
    {"username", "password", "client_name", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
)
_CLAIM_MS = 24 * 3600 * 1000
"""An event told again within this time is known even where the user has had more than `keep` events since."""
_OPEN_SECONDS = 1.0
_FLOW_SECONDS = 5.0
"""What a flow waits for one answer."""
_BATCH = 5_000
_OWED = 100_000
"""Events that are kept while Redis is down; the log has all of them."""
_SECONDS_A_ROW = 1e-3
_NO_NOTICES = MaintNotificationsConfig(enabled=False)
_TRIES = 600
_LOG = logging.getLogger(__name__)
# `TimeoutError` and a refused connection are OSErrors; Redis's own have a tree of their own.
_UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, OSError)
A = TypeVar("A")


class RedisState:
    """Users' newest `keep` events and their preferences. Methods as `user_states.UserState` has them.

    The coroutines are for one event loop; the other methods have a connection of their own.
    """

    shared = True

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, str],
        namespace: str,
        record: PreferenceFiles,
        timeout_seconds: float,
        days: float,
        keep: int = KEPT,
    ) -> None:
        """`record` keeps the preferences. `days`: a user's events go this long after the last.

        Connects to nothing yet. Raises UsageError for a URL or options that are not understood.
        """
        self.keep = keep
        self._url = url
        self._names = KeyNames(namespace)
        self._record = record
        self._timeout = timeout_seconds
        self._life_ms = round(days * 86_400_000)
        self._options = _checked(options, url)
        self._problem = ""
        self._breaker = Breaker(seconds=_OPEN_SECONDS)
        self._owed: deque[Row] = deque(maxlen=_OWED)
        self._owing: dict[str, Preferences] = {}
        self._settling: asyncio.Task[None] | None = None
        try:
            self._client = redis_asyncio.Redis.from_url(url, **self._arguments(timeout_seconds))
            self._waiting = redis.Redis.from_url(url, **self._arguments(_FLOW_SECONDS))
            self._waiting.connection_pool.make_connection()  # takes the arguments, and connects to nothing
        except (ValueError, TypeError, AttributeError) as error:
            # Not chained: the cause's frames hold the password.
            raise UsageError(
                f"[serving] user_state: not understood ({scrubbed(str(error), url, self._options)}); "
                "write redis://HOST:6379/0, rediss://… or unix:///PATH, and options that fit it"
            ) from None
        self._read, self._known, self._add, self._prefer = map(self._client.register_script, (READ, KNOWN, ADD, PREFER))
        self._flow_read, self._flow_add, self._flow_rename, self._flow_forget = map(
            self._waiting.register_script, (READ, ADD, RENAME, FORGET)
        )

    @property
    def problem(self) -> str | None:
        return self._problem if self._breaker.is_open else None

    async def read(self, user: str, *, formerly: str | None = None) -> Remembered:
        recorded = self._recorded(user, formerly)
        try:
            told = await self._ask(self._read(keys=self._keys_of(user, formerly), args=[self.keep]))
        except DependencyFailed as error:
            return Remembered(preferences=recorded, error=str(error))
        events, preferences = _merged(told, self.keep)
        return Remembered(
            [event.item_id for event in events],
            [event.behaviour for event in events],
            [event.event_time_us for event in events],
            later(recorded, preferences),
        )

    async def known(self, rows: Sequence[Row]) -> set[str]:
        asked = by_user(rows)
        calls = [
            (
                self._known,
                [self._names.events(user), *(self._names.claim(row[1]) for row in theirs)],
                [packed(row) for row in theirs],
            )
            for user, theirs in asked.items()
        ]
        told = await self._ask_all(calls, rows=len(rows))
        return {theirs[at][1] for theirs, places in zip(asked.values(), told, strict=True) for at in places}

    async def admit(self, rows: Sequence[Row]) -> set[str]:
        try:
            return await self._admit(rows)
        except DependencyFailed:
            self._owed.extend(rows)
            raise

    async def set_preferences(self, user: str, preferences: Preferences) -> Preferences:
        """In Redis and in the home's files. With Redis down in the files alone, until it is back."""
        how, stated = "later", preferences
        if not preferences.set_us:
            how, stated = "now", preferences.set_after(self._recorded(user, None))
        try:
            stated = await self._put(user, stated, how)
        except DependencyFailed as error:
            _LOG.warning("%s; the home's files keep a user's preferences meanwhile", error)
            self._owing[user] = stated
        return await asyncio.to_thread(self._record.keep, user, stated)

    async def aclose(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
        await self._client.aclose()
        self.close()

    def absorb(self, rows: Iterable[Row]) -> int:
        fresh, pending, now = 0, iter(rows), time.time()
        with self._waited():
            while batch := list(islice(pending, _BATCH)):
                pipeline = self._waiting.pipeline(transaction=False)
                for user, theirs in by_user(batch).items():
                    keys, arguments = self._addition(user, theirs, now=now)
                    self._flow_add(keys=keys, args=arguments, client=pipeline)
                fresh += sum(len(places) for places in pipeline.execute())
            # Those whose events have expired since; who has preferences stays.
            for group in self._groups():
                self._waiting.zremrangebyscore(self._names.group(group), "-inf", now - self._life_ms / 1e3)
        return fresh

    def newest(self, user: str, n: int, *, formerly: str | None = None) -> list[PastEvent]:
        with self._waited():
            return _merged(self._flow_read(keys=self._keys_of(user, formerly), args=[n]), n)[0]

    def preferences(self, user: str, *, formerly: str | None = None) -> Preferences:
        with self._waited():
            told = self._flow_read(keys=self._keys_of(user, formerly), args=[1])
        return later(self._record.read(user, formerly=formerly), _merged(told, 1)[1])

    def forget(self, users: Sequence[str]) -> int:
        """From Redis, from what its append-only file kept of it, and from the home's files."""
        gone = 0
        with self._waited():
            for user in users:
                names = self._names
                keys = [names.events(user), names.preferences(user), names.group(group_of(user))]
                gone += int(self._flow_forget(keys=keys, args=[user]))
            if users:
                self._rewrite_log()
        self._record.forget(users)
        return gone

    def rename(self, prefix: str, newest: Callable[[Sequence[str]], Sequence[str]]) -> int:
        renamed = 0
        if not self._breaker.is_open:  # the caller may be serving; the next look comes soon
            with self._waited():
                for group in self._groups() - {prefix}:
                    renamed += self._rename_group(group, newest)
        return max(renamed, self._record.rename(prefix, newest))  # the same users, as far as they have preferences

    def absorbed(self) -> int:
        """In Redis with the events: a Redis that lost them has lost the mark too."""
        with self._waited():
            found = self._waiting.get(self._names.absorbed)
        return -1 if found is None else int(cast(bytes, found))

    def mark_absorbed(self, version: int) -> None:
        with self._waited():
            self._waiting.set(self._names.absorbed, version)

    def close(self) -> None:
        self._waiting.close()

    async def _admit(self, rows: Sequence[Row]) -> set[str]:
        told, now = by_user(rows), time.time()
        calls = []
        for user, theirs in told.items():
            keys, arguments = self._addition(user, theirs, now=now)
            calls.append((self._add, [*keys, *(self._names.claim(row[1]) for row in theirs)], arguments))
        fresh = await self._ask_all(calls, rows=len(rows))
        return {theirs[at][1] for theirs, places in zip(told.values(), fresh, strict=True) for at in places}

    async def _put(self, user: str, preferences: Preferences, how: str) -> Preferences:
        """Those that stand then."""
        group = group_of(user)
        keys = [self._names.preferences(user), self._names.group(group), self._names.groups]
        arguments: list[int | str] = [preferences.set_us, preferences.stated(), user, group, how]
        return _preferences(await self._ask(self._prefer(keys=keys, args=arguments)))

    async def _ask_all(self, calls: Sequence[tuple[Any, list[Any], list[Any]]], *, rows: int) -> list[list[int]]:
        if len(calls) <= 1:
            return [await self._ask(script(keys=keys, args=arguments)) for script, keys, arguments in calls]
        pipeline = self._client.pipeline(transaction=False)
        for script, keys, arguments in calls:
            await script(keys=keys, args=arguments, client=pipeline)
        return list(await self._ask(pipeline.execute(), more_seconds=rows * _SECONDS_A_ROW))

    async def _ask(self, asked: Coroutine[Any, Any, A], *, more_seconds: float = 0.0) -> A:
        """The answer. Raises DependencyFailed, at once while the breaker is open."""
        if not self._breaker.allows():
            asked.close()
            raise self._down("asked again soon")
        try:
            async with asyncio.timeout(self._timeout + more_seconds):
                answer = await asked
        except _UNREACHABLE as error:
            self._problem = str(self._down(error))
            if not self._breaker.is_open:
                _LOG.warning("%s", self._problem)
            self._breaker.failed()
            raise self._down(error) from None
        except redis.RedisError as error:  # it is there, and refused
            self._breaker.succeeded()
            _LOG.warning("%s", self._down(error))
            raise self._down(error) from None
        if self._breaker.is_open:
            _LOG.info("user state answers again")
        self._breaker.succeeded()
        if (self._owed or self._owing) and (self._settling is None or self._settling.done()):
            self._settling = asyncio.create_task(self._settle())
        return answer

    async def _settle(self) -> None:
        """Tell Redis what it missed. What fails stays owed."""
        try:
            while self._owed:
                rows = [self._owed.popleft() for _ in range(min(len(self._owed), 500))]
                try:
                    await self._admit(rows)
                except DependencyFailed:
                    self._owed.extendleft(reversed(rows))
                    raise
            while self._owing:
                user, preferences = next(iter(self._owing.items()))
                await self._put(user, preferences, "later")
                if self._owing.get(user) is preferences:
                    del self._owing[user]
        except DependencyFailed as error:
            _LOG.warning("%s", error)

    def _addition(self, user: str, rows: Sequence[Row], *, now: float) -> tuple[list[Any], list[Any]]:
        group = group_of(user)
        keys = [self._names.events(user), self._names.group(group), self._names.groups]
        return keys, [self.keep, self._life_ms, round(now), user, group, _CLAIM_MS, *map(packed, rows)]

    def _rename_group(self, group: str, newest: Callable[[Sequence[str]], Sequence[str]]) -> int:
        renamed, names, of_group = 0, self._names, self._names.group(group)
        members = (member.decode() for member, _ in self._waiting.zscan_iter(of_group, count=_BATCH))
        while former := list(islice(members, _BATCH)):
            pipeline = self._waiting.pipeline(transaction=False)
            for new, old in zip(newest(former), former, strict=True):
                if new == old:
                    continue
                keys = [names.events(old), names.events(new), names.preferences(old), names.preferences(new)]
                keys += [of_group, names.group(group_of(new)), names.groups]
                arguments = [self.keep, self._life_ms, round(time.time()), old, new, group_of(new)]
                self._flow_rename(keys=keys, args=arguments, client=pipeline)
            renamed += len(pipeline.execute())
        if not self._waiting.exists(of_group):
            self._waiting.srem(names.groups, group)
        return renamed

    def _rewrite_log(self) -> None:
        """The append-only file, if there is one, still has what was deleted; so has a rewrite that began before."""
        for _ in range(_TRIES):
            persistence = self._waiting.info("persistence")
            if not persistence.get("aof_enabled"):
                return
            if not persistence.get("aof_rewrite_in_progress"):
                self._waiting.bgrewriteaof()
                return
            time.sleep(0.1)
        raise DependencyFailed(f"{shown(self._url)}: rewrites its append-only file all the time; repeat the command")

    def _groups(self) -> set[str]:
        return {name.decode() for name in cast(set[bytes], self._waiting.smembers(self._names.groups))}

    def _keys_of(self, user: str, formerly: str | None) -> list[str]:
        ids = (user,) if formerly is None else (user, formerly)
        return [key for name in ids for key in (self._names.events(name), self._names.preferences(name))]

    def _recorded(self, user: str, formerly: str | None) -> Preferences:
        try:
            return self._record.read(user, formerly=formerly)
        except DependencyFailed as error:
            _LOG.warning("%s", error)
            return NO_PREFERENCES

    @contextmanager
    def _waited(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise self._down(error) from None

    def _down(self, error: Exception | str) -> DependencyFailed:
        said = error if isinstance(error, str) else scrubbed(str(error) or "no answer", self._url, self._options)
        return DependencyFailed(f"{shown(self._url)}: user state: {said}; check [serving] user_state and Redis")

    def _arguments(self, seconds: float) -> dict[str, Any]:
        # One try: the library's default tries again, and each try would cost a timeout.
        once = Retry(NoBackoff(), 0)
        # Nothing is said on a new connection but who we are, if that: each word would be one more answer to wait for.
        quiet = {"protocol": 2, "driver_info": None, "maint_notifications_config": _NO_NOTICES}
        return {**self._options, **quiet, "socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": once}


def _checked(options: Mapping[str, str], url: str) -> dict[str, str]:
    for option in options:
        if option not in OPTIONS:
            raise UsageError(
                f"[serving] user_state_options: {option} is not an option; known: {', '.join(sorted(OPTIONS))}"
            )
    return resolved(options)


def _merged(told: Sequence[bytes], n: int) -> tuple[list[PastEvent], Preferences]:
    """Of what `READ` told of each id of a user."""
    events = unpacked(told[0])
    if len(told) > 2 and told[2]:
        events += unpacked(told[2])
        events = sorted(events, key=lambda event: (event.event_time_us, event.event_id.encode()))[-n:]
    return events, later(NO_PREFERENCES, *(_preferences(stated) for stated in told[1::2] if stated))


def _preferences(stated: bytes) -> Preferences:
    """Redis may have set them later than they say: just after those that they replaced."""
    set_us, said = stated.split(b"\n", 1)
    return replace(Preferences.of(said), set_us=int(set_us))

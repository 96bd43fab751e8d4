"""How user state lies in Redis: a user's events as the members of one sorted set, and the scripts that change it.

    member = time id 00 item 00 behaviour 00        time: 16 hexadecimal digits of microseconds + 2^63
                                                    00: two zero bytes; a zero byte in a text is written 00 01
All scores are 0, so that Redis orders members by their bytes, which is the order of (event_time, event_id), ids by
their UTF-8: a score is a double, and would hold times only up to the year 2255. Each script is atomic.

`{namespace}:` begins every key; then `u:` user → events, `p:` user → "<set_us>\\n<preferences>", `e:` hash of an event
id → claimed by a server, `g:` prefix → when each user with such an id was last written (+inf: has preferences),
`groups` → the prefixes there are, `absorbed` → the version of the events table.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from stores.user_states import PastEvent, Row

_SHIFT = 1 << 63
_END = "\0\0"
_ZERO, _WRITTEN_ZERO = "\0", "\0\x01"

_FUNCTIONS = r"""
local function id_of(member)
  return string.sub(member, 17, string.find(member, '\0\0', 17, true) - 1)
end
local function held_in(events)
  local held = {}
  for _, member in ipairs(redis.call('ZRANGE', events, 0, -1)) do held[id_of(member)] = true end
  return held
end
local function touch(events, group, groups, keep, life_ms, now, user, name)
  redis.call('ZREMRANGEBYRANK', events, 0, -keep - 1)
  redis.call('PEXPIRE', events, life_ms)
  redis.call('ZADD', group, 'GT', now, user)
  redis.call('SADD', groups, name)
end
local function set_us(stated)
  return tonumber(string.match(stated, '^%d+'))
end
"""

READ = r"""
local told = {}
for i = 1, #KEYS, 2 do
  told[i] = table.concat(redis.call('ZRANGE', KEYS[i], -ARGV[1], -1))
  told[i + 1] = redis.call('GET', KEYS[i + 1]) or ''
end
return told
"""
"""KEYS: events and preferences, of each id of the user. ARGV: n. Texts; 200 members one by one take twice as long."""

KNOWN = (
    _FUNCTIONS
    + r"""
local held, known = held_in(KEYS[1]), {}
for i, member in ipairs(ARGV) do
  if held[id_of(member)] or redis.call('EXISTS', KEYS[i + 1]) == 1 then known[#known + 1] = i - 1 end
end
return known
"""
)
"""KEYS: events, a claim a member. ARGV: members of one user. The places of those that are known, from 0."""

ADD = (
    _FUNCTIONS
    + r"""
local held, fresh = held_in(KEYS[1]), {}
for i = 7, #ARGV do
  local id = id_of(ARGV[i])
  local new = not held[id]
  if new then
    held[id] = true
    redis.call('ZADD', KEYS[1], 0, ARGV[i])
  end
  local claim = KEYS[i - 3]
  if claim and not redis.call('SET', claim, '', 'NX', 'PX', ARGV[6]) then new = false end
  if new then fresh[#fresh + 1] = i - 7 end
end
touch(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
return fresh
"""
)
"""KEYS: events, group, groups, and no claims or one a member. ARGV: keep, life of events in ms, now in s, user, the
group's name, life of claims in ms, members of one user. The places of those that are new, from 0."""

PREFER = (
    _FUNCTIONS
    + r"""
local former, stamp = redis.call('GET', KEYS[1]), tonumber(ARGV[1])
if former and set_us(former) >= stamp then
  if ARGV[5] == 'later' then return former end
  stamp = set_us(former) + 1
end
local stated = string.format('%.0f', stamp) .. '\n' .. ARGV[2]
redis.call('SET', KEYS[1], stated)
redis.call('ZADD', KEYS[2], 'inf', ARGV[3])
redis.call('SADD', KEYS[3], ARGV[4])
return stated
"""
)
"""KEYS: preferences, group, groups. ARGV: set_us, preferences, user, the group's name, `now` (they replace what is
there) or `later` (only what is older). Those that stand then, as they are kept."""

RENAME = (
    _FUNCTIONS
    + r"""
local held = held_in(KEYS[2])
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if not held[id_of(member)] then redis.call('ZADD', KEYS[2], 0, member) end
end
touch(KEYS[2], KEYS[6], KEYS[7], ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6])
local former, later = redis.call('GET', KEYS[3]), redis.call('GET', KEYS[4])
if former and not (later and set_us(later) >= set_us(former)) then
  redis.call('SET', KEYS[4], former)
  redis.call('ZADD', KEYS[6], 'inf', ARGV[5])
end
redis.call('DEL', KEYS[1], KEYS[3])
redis.call('ZREM', KEYS[5], ARGV[4])
return redis.status_reply('OK')
"""
)
"""KEYS: events, old and new; preferences, old and new; group, old and new; groups. ARGV: keep, life in ms, now in s,
user, old and new; the new group's name."""

FORGET = r"""
local gone = redis.call('ZCARD', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
return gone
"""
"""KEYS: events, preferences, group. ARGV: user. How many events there were."""


@dataclass(frozen=True)
class KeyNames:
    """What lies where. Not for a Redis cluster: a script's keys would lie on several machines."""

    namespace: str

    def events(self, user: str) -> str:
        return f"{self.namespace}:u:{user}"

    def preferences(self, user: str) -> str:
        return f"{self.namespace}:p:{user}"

    def claim(self, event_id: str) -> bytes:
        # Hashed: ids may be long, and a claim outlives a user who is forgotten by hours.
        return f"{self.namespace}:e:".encode() + hashlib.blake2b(event_id.encode(), digest_size=16).digest()

    def group(self, name: str) -> str:
        return f"{self.namespace}:g:{name}"

    @property
    def groups(self) -> str:
        return f"{self.namespace}:groups"

    @property
    def absorbed(self) -> str:
        return f"{self.namespace}:absorbed"


def group_of(user: str) -> str:
    """The prefix of an id, as `p2_`; empty where it has none."""
    return user[: user.find("_") + 1]


def packed(row: Row) -> bytes:
    _, event_id, item_id, behaviour, time_us = row
    texts = f"{event_id}{_END}{item_id}{_END}{behaviour}{_END}"
    if _ZERO in event_id or _ZERO in item_id or _ZERO in behaviour:
        texts = "".join(text.replace(_ZERO, _WRITTEN_ZERO) + _END for text in (event_id, item_id, behaviour))
    return f"{time_us + _SHIFT:016x}{texts}".encode()


def unpacked(members: bytes) -> list[PastEvent]:
    """Of any number of members, one after another."""
    text = members.decode()
    parts = text.split(_END)
    if _WRITTEN_ZERO in text:
        parts = [part.replace(_WRITTEN_ZERO, _ZERO) for part in parts]
    heads, items, behaviours = parts[:-1:3], parts[1::3], parts[2::3]
    return [
        PastEvent(head[16:], item, behaviour, int(head[:16], 16) - _SHIFT)
        for head, item, behaviour in zip(heads, items, behaviours, strict=True)
    ]


def by_user(rows: Sequence[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row[0], []).append(row)
    return grouped

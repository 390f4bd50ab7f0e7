"""The store in Redis: shared by many servers."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.serving.records import Columns, Record, Row
from unimixer.serving.store import FORMAT, IDS_KEPT_S, Event, FeatureStore, Kind, StoreUnavailableError, View

PREFIX = "unimixer"
TIMEOUT_S = 2.0
REVISION = ""
"""Field of a row's hash that holds its revision; no column has an empty name."""
_CHECK = """
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[1]) then return redis.error_reply('the write came too late') end
if redis.call('EXISTS', KEYS[1] .. ':meta') == 0 then return redis.error_reply('its data are gone') end
"""
"""What every write begins with: one that its sender has given up, or that would look like a store, is not done."""
_WRITE = """
local revision, kind, columns = redis.call('INCR', KEYS[1] .. ':clock'), ARGV[2], cjson.decode(ARGV[3])
if #columns > 0 then redis.call('HSET', KEYS[1] .. ':columns:' .. kind, unpack(columns)) end
for i, text in ipairs(ARGV) do
  if i > 3 then
    local row = cjson.decode(text)
    local place = KEYS[1] .. ':' .. kind .. ':' .. row[1]
    if redis.call('EXISTS', place) == 0 then redis.call('INCR', KEYS[1] .. ':count:' .. kind) end
    redis.call('HSET', place, '', revision, unpack(row[2]))
    redis.call('ZADD', KEYS[1] .. ':changed:' .. kind, revision, row[1])
  end
end
return revision
"""
"""Columns as [name, type, ...], rows as [key, [column, JSON text, ...]]: one revision for all, no reader in between."""
_APPEND = """
local prefix, margin, call, kept = KEYS[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local first = tonumber(redis.call('GET', prefix .. ':count:events') or '0')
local number, kinds, removed = first, {}, 0
for i = 5, #ARGV do
  local event = cjson.decode(ARGV[i])
  local known = prefix .. ':event_id:' .. event[5]
  if event[5] == '' or redis.call('SET', known, call, 'NX', 'EX', kept) or redis.call('GET', known) == call then
    local place = prefix .. ':events:' .. event[1] .. ':' .. event[2]
    redis.call('ZADD', place, event[3], string.format('%016d', number) .. ':' .. event[4])
    kinds[place], number = event[1], number + 1
  end
end
redis.call('INCRBY', prefix .. ':count:events', number - first)
for place, kind in pairs(kinds) do
  local longest = redis.call('HGET', prefix .. ':longest', kind)
  if longest then removed = removed + redis.call('ZREMRANGEBYRANK', place, 0, -(longest + margin) - 1) end
end
redis.call('INCRBY', prefix .. ':count:trimmed', removed)
return number - first
"""
"""Events as [kind, user, time, item, id]. Members of one time stand in the order of their texts, hence leading zeros.

An id is kept with the call that brought it: one impression may be several events.
"""
_EXPECT = """
for i = 1, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1] .. ':longest', ARGV[i])
  if not known or tonumber(known) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1] .. ':longest', ARGV[i], ARGV[i + 1])
  end
end
"""
_UNKNOWN = "; whether this was written is not known: send it again, events with the same event_id"
_EVENTS = 1_000
"""Events of one call of the script, which keeps others waiting."""


class RedisStore(FeatureStore):
    """A hash a row, a sorted set a user and kind of event, a sorted set of what changed.

    Args:
        address: ``redis://[:password@]host:port/db``; ``?prefix=NAME`` sets several stores apart in one database.
    """

    def __init__(self, address: str) -> None:
        try:
            import redis
        except ImportError:
            raise MissingExtraError("a feature store in Redis", "serve") from None
        address, _, prefix = address.partition("?prefix=")
        self.prefix = prefix or PREFIX
        self.name = re.sub(r"//[^@/]*@", "//", address)
        self._error: type[Exception] = redis.exceptions.RedisError
        self._silent = redis.exceptions.ConnectionError, redis.exceptions.TimeoutError
        try:
            self.client = redis.Redis.from_url(
                address,
                decode_responses=True,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
            )
        except ValueError as error:
            raise UnimixerError(f"{self.name}: not an address of Redis ({error}); use redis://host:port/db") from None
        with self._talking():
            self._write_rows = self.client.register_script(_CHECK + _WRITE)
            self._append_events = self.client.register_script(_CHECK + _APPEND)
            self._expect = self.client.register_script(_EXPECT)
            form: Any = self.client.hget(self._at("meta"), "format")
        if form is None:
            self._start()
        elif form != str(FORMAT):
            raise UnimixerError(f"{self.name}: format {form}, this version reads {FORMAT}; build the store again")

    def view(self, user: str | None, windows: Mapping[str, int], before: int) -> View:
        """See :meth:`FeatureStore.view`; one round trip."""
        with self._talking():
            pipe = self.client.pipeline(transaction=False)
            pipe.hget(self._at("meta"), "generation")
            pipe.get(self._at("clock"))
            if user is not None:
                pipe.hgetall(self._at("users", user))
                for event, limit in windows.items():
                    place = self._at("events", event, user)
                    pipe.zrevrangebyscore(place, f"({before}", "-inf", start=0, num=limit)
            generation, clock, *rest = pipe.execute()
        if generation is None:  # emptied, or not filled to the end: everybody would be unknown
            raise StoreUnavailableError(
                f"{self.name}: holds no whole feature store; fill it with: unimixer store build"
            )
        if user is None:
            return View(generation, int(clock or 0), events={event: [] for event in windows})
        events = {event: [_item(m) for m in reversed(found)] for event, found in zip(windows, rest[1:], strict=True)}
        return View(generation, int(clock or 0), _record(rest[0]), events)

    def records(self, kind: Kind, keys: Sequence[str]) -> dict[str, Record]:
        """See :meth:`FeatureStore.records`."""
        with self._talking():
            pipe = self.client.pipeline(transaction=False)
            for key in keys:
                pipe.hgetall(self._at(kind, key))
            found = zip(keys, map(_record, pipe.execute()), strict=True)
        return {key: record for key, record in found if record is not None}

    def changed(self, kind: Kind, since: int) -> list[str]:
        """See :meth:`FeatureStore.changed`."""
        with self._talking():
            return cast(list[str], self.client.zrangebyscore(self._at("changed", kind), f"({since}", "+inf"))

    def columns(self, kind: Kind) -> Columns:
        """See :meth:`FeatureStore.columns`."""
        with self._talking():
            return cast(Columns, self.client.hgetall(self._at("columns", kind)))

    def counts(self) -> dict[str, int]:
        """See :meth:`FeatureStore.counts`."""
        names = ("users", "items", "events", "trimmed")
        with self._talking():
            found = cast(list[str | None], self.client.mget([self._at("count", name) for name in names]))
        users, items, events, trimmed = (int(count or 0) for count in found)
        return {"users": users, "items": items, "events": events - trimmed}

    def write(self, kind: Kind, rows: Mapping[str, Row], columns: Columns) -> int:
        """See :meth:`FeatureStore.write`."""
        arguments: list[str] = [self._latest(), kind, json.dumps([text for pair in columns.items() for text in pair])]
        for key, row in rows.items():
            # null for a value that is not known: the column loses what it had
            flat = [text for name, value in row.items() for text in (name, json.dumps(value))]
            arguments.append(json.dumps([key, flat]))
        with self._talking(_UNKNOWN):
            revision: Any = self._write_rows(keys=[self.prefix], args=arguments)
        return int(revision)

    def append(self, events: Sequence[Event]) -> int:
        """See :meth:`FeatureStore.append`."""
        if not events:
            return 0
        texts, call = [json.dumps([e.event, e.user, str(e.time), e.item, e.id or ""]) for e in events], uuid.uuid4().hex
        latest = self._latest()
        with self._talking(_UNKNOWN):
            pipe = self.client.pipeline(transaction=True)
            for start in range(0, len(texts), _EVENTS):
                arguments = [latest, str(self.margin), call, str(IDS_KEPT_S), *texts[start : start + _EVENTS]]
                self._append_events(keys=[self.prefix], args=arguments, client=pipe)
            return sum(pipe.execute())

    def expect(self, longest: Mapping[str, int]) -> None:
        """See :meth:`FeatureStore.expect`."""
        if longest:
            with self._talking():
                self._expect(keys=[self.prefix], args=[str(part) for pair in longest.items() for part in pair])

    @contextmanager
    def filling(self, *, overwrite: bool) -> Iterator[None]:
        """See :meth:`FeatureStore.filling`; Redis shows rows as they come, so a store is never replaced in place."""
        if any(self.counts().values()):
            raise UnimixerError(
                f"{self.name}: holds a store already, which Redis cannot replace at one moment; build into another "
                "database, or give the address another ?prefix=NAME"
            )
        with self._talking():
            self.client.hdel(self._at("meta"), "generation")  # no server answers from the first part of the rows
        yield
        self._start()

    def close(self) -> None:
        """See :meth:`FeatureStore.close`."""
        self.client.close()

    def _start(self) -> None:
        with self._talking():
            facts = {"format": FORMAT, "generation": uuid.uuid4().hex}
            self.client.hset(self._at("meta"), mapping=cast(dict[Any, Any], facts))

    def _latest(self) -> str:
        """Until when a write of now may be done, in ms of Redis's clock: as long as its sender waits."""
        with self._talking():
            seconds, micros = self.client.time()
        return str(int((seconds + TIMEOUT_S) * 1000 + micros / 1000))

    def _at(self, *names: str) -> str:
        return ":".join((self.prefix, *names))

    @contextmanager
    def _talking(self, unknown: str = "") -> Iterator[None]:
        """What Redis or the network refuses becomes one sentence; ``unknown`` is for a reply that did not come."""
        try:
            yield
        except self._error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            known = unknown if isinstance(error, self._silent) else ""
            raise StoreUnavailableError(
                f"{self.name}: the feature store cannot be used now ({reason}){known}"
            ) from error


def _record(found: dict[str, str]) -> Record | None:
    if not found:
        return None
    revision = int(found.pop(REVISION))
    return Record(revision, "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in found.items()) + "}")


def _item(member: str) -> str:
    return member.partition(":")[2]

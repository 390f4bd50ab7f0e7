"""Keep a feature store in Redis, shared by many servers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.serving.stores.base import (
    FORMAT,
    IDS_KEPT_S,
    TIMEOUT_S,
    Event,
    FeatureStore,
    Kind,
    Rows,
    StoreUnavailableError,
    UserView,
    redacted,
    wrong_format,
)
from unimixer.serving.stores.records import Columns, Record, Row

PREFIX = "unimixer"
REVISION = ""
"""Field of a row's hash that holds its revision; no column has an empty name."""
_CHECK = """
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[1]) then return redis.error_reply('the write arrived too late') end
local format = redis.call('HGET', KEYS[1] .. ':meta', 'format') or ''
if format ~= ARGV[2] then return redis.error_reply('its data were deleted or replaced') end
"""
"""First lines of every write: refuse a write whose sender has timed out, or whose store was deleted or replaced."""
_WRITE = """
local revision, kind, columns = redis.call('INCR', KEYS[1] .. ':clock'), ARGV[3], cjson.decode(ARGV[4])
if #columns > 0 then redis.call('HSET', KEYS[1] .. ':columns:' .. kind, unpack(columns)) end
for i, text in ipairs(ARGV) do
  if i > 4 then
    local row = cjson.decode(text)
    local name = KEYS[1] .. ':' .. kind .. ':' .. row[1]
    if redis.call('EXISTS', name) == 0 then redis.call('INCR', KEYS[1] .. ':count:' .. kind) end
    redis.call('HSET', name, '', revision, unpack(row[2]))
    redis.call('ZADD', KEYS[1] .. ':changed:' .. kind, revision, row[1])
  end
end
return revision
"""
"""Columns are [name, type, ...], rows are [key, [column, JSON text, ...]]: all get one revision, atomically."""
_APPEND = """
local prefix, margin, call, seconds = KEYS[1], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local first = tonumber(redis.call('GET', prefix .. ':count:events') or '0')
local number, kinds, removed = first, {}, 0
for i = 6, #ARGV do
  local event = cjson.decode(ARGV[i])
  local known = prefix .. ':event_id:' .. event[5]
  if event[5] == '' or redis.call('SET', known, call, 'NX', 'EX', seconds) or redis.call('GET', known) == call then
    local name = prefix .. ':events:' .. event[1] .. ':' .. event[2]
    redis.call('ZADD', name, event[3], string.format('%016d', number) .. ':' .. event[4])
    kinds[name], number = event[1], number + 1
  end
end
redis.call('INCRBY', prefix .. ':count:events', number - first)
for name, kind in pairs(kinds) do
  local longest = redis.call('HGET', prefix .. ':longest', kind)
  if longest then removed = removed + redis.call('ZREMRANGEBYRANK', name, 0, -(longest + margin) - 1) end
end
redis.call('INCRBY', prefix .. ':count:trimmed', removed)
return number - first
"""
"""Events are [kind, user, time, item, id]. Redis sorts members of one time as texts, hence the leading zeros.

An id is stored with the call that sent it, because one impression may be several events of the same call.
"""
_EXPECT = """
for i = 1, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1] .. ':longest', ARGV[i])
  if not known or tonumber(known) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1] .. ':longest', ARGV[i], ARGV[i + 1])
  end
end
"""
_UNKNOWN = "; the write may or may not have happened: send it again, with the same event_id for events"
_EVENTS = 1_000
"""Events per call of the script, which blocks other clients while it runs."""


class RedisStore(FeatureStore):
    """Keep every row in a hash, the events of a user and kind in a sorted set, and the changed keys in another.

    Args:
        address: ``redis://[:password@]host:port/db``; ``?prefix=NAME`` separates several stores in one database.
        timeout: seconds that a call waits for an answer.
    """

    def __init__(self, address: str, *, timeout: float = TIMEOUT_S) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise MissingExtraError("a feature store in Redis", "serve") from None
        address, self.prefix = _without_prefix(address)
        self.name, self.timeout, self._filling = redacted(address), timeout, False
        self._error: type[Exception] = redis.exceptions.RedisError
        self._silent = redis.exceptions.ConnectionError, redis.exceptions.TimeoutError
        try:
            if "@" in "".join(urlsplit(address)[2:]):  # otherwise a part of the password is read as a host
                raise ValueError
            self.client = redis.Redis.from_url(
                address,
                decode_responses=True,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),  # a retry could write twice
            )
            self.client.connection_pool.make_connection()  # reads the options of the address
        except (ValueError, TypeError):  # the error texts repeat parts of the address
            scheme = address.partition("://")[0]
            raise UnimixerError(
                f"{scheme}://...: not an address of Redis; use redis://[:PASSWORD@]host:port/db, with the special "
                "characters of the password percent-encoded, such as %40"
            ) from None
        try:
            with self._talking():
                scripts = (_CHECK + _WRITE, _CHECK + _APPEND, _EXPECT)
                self._write_rows, self._append_events, self._expect = map(self.client.register_script, scripts)
                version = self.client.hget(self._at("meta"), "format")
            if version not in (None, str(FORMAT)):
                raise wrong_format(self.name, str(version))
        except BaseException:
            self.close()
            raise

    def view(self, user: str | None, windows: Mapping[str, int], before: int) -> UserView:
        """See :meth:`FeatureStore.view`, in one round trip."""
        with self._reading() as pipe:
            if user is not None:
                pipe.hgetall(self._at("users", user))
                for event, limit in windows.items():
                    name = self._at("events", event, user)
                    pipe.zrevrangebyscore(name, f"({before}", "-inf", start=0, num=limit)
            generation, clock, rest = self._answers(pipe)
            if user is None:
                return UserView(generation, clock, events={event: [] for event in windows})
            answers = zip(windows, rest[1:], strict=True)
            events = {event: [_item(member) for member in reversed(members)] for event, members in answers}
            return UserView(generation, clock, _record(rest[0]), events)

    def read(self, kind: Kind, keys: Sequence[str]) -> Rows:
        """See :meth:`FeatureStore.read`."""
        with self._reading() as pipe:
            for key in keys:
                pipe.hgetall(self._at(kind, key))
            generation, clock, rest = self._answers(pipe)
            records = zip(keys, map(_record, rest), strict=True)
            return Rows(generation, clock, {key: record for key, record in records if record is not None})

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
        with self._reading() as pipe:
            pipe.mget(self._counters())
            return _counts(self._answers(pipe)[2][0])

    def has_data(self) -> bool:
        """See :meth:`FeatureStore.has_data`."""
        return any(self.counts().values())

    def write(self, kind: Kind, rows: Mapping[str, Row], columns: Columns) -> int:
        """See :meth:`FeatureStore.write`."""
        arguments: list[str] = [*self._now(), kind, json.dumps([text for pair in columns.items() for text in pair])]
        for key, row in rows.items():
            # null removes the stored value of the column
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
        now = self._now()
        with self._talking(_UNKNOWN), self.client.pipeline(transaction=True) as pipe:
            for start in range(0, len(texts), _EVENTS):
                arguments = [*now, str(self.margin), call, str(IDS_KEPT_S), *texts[start : start + _EVENTS]]
                self._append_events(keys=[self.prefix], args=arguments, client=pipe)
            return sum(pipe.execute())

    def expect(self, longest: Mapping[str, int]) -> None:
        """See :meth:`FeatureStore.expect`."""
        if longest:
            with self._talking():
                self._expect(keys=[self.prefix], args=[str(part) for pair in longest.items() for part in pair])

    @contextmanager
    def filling(self, *, overwrite: bool) -> Iterator[None]:
        """See :meth:`FeatureStore.filling`; others see no store until it is full. An existing store is refused."""
        with self._talking():
            if any(_counts(cast(list[str | None], self.client.mget(self._counters()))).values()):
                raise UnimixerError(
                    f"{self.name}: holds a feature store, which Redis cannot replace atomically; build into another "
                    "database, or add ?prefix=NAME with another name to the address"
                )
            self.client.delete(self._at("meta"))
        self._filling = True
        try:
            yield
        finally:
            self._filling = False
        facts = {"format": FORMAT, "generation": uuid.uuid4().hex}
        with self._talking():
            self.client.hset(self._at("meta"), mapping=cast(dict[Any, Any], facts))

    def close(self) -> None:
        """See :meth:`FeatureStore.close`."""
        self.client.close()

    def _counters(self) -> list[str]:
        return [self._at("count", name) for name in ("users", "items", "events", "trimmed")]

    def _now(self) -> list[str]:
        """Return the first arguments of a write, see ``_CHECK``: its deadline and the expected format of the store.

        The deadline is when the sender stops waiting for an answer, by Redis's clock in ms.
        """
        with self._reading() as pipe:
            pipe.time()
            ((seconds, micros),) = self._answers(pipe)[2]
        return [str(int((seconds + self.timeout) * 1000 + micros / 1000)), "" if self._filling else str(FORMAT)]

    def _at(self, *names: str) -> str:
        return ":".join((self.prefix, *names))

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """Yield a transaction, whose reads see one state. It reads generation and clock first, see :meth:`_answers`."""
        with self._talking(), self.client.pipeline(transaction=True) as pipe:
            pipe.hmget(self._at("meta"), "format", "generation")
            pipe.get(self._at("clock"))
            yield pipe

    def _answers(self, pipe: Any) -> tuple[str, int, list[Any]]:
        """Return the generation, the clock and the answers to the other reads of a transaction.

        Raises:
            StoreUnavailableError: Redis holds no store at this address, or one of another version.
        """
        (version, generation), clock, *rest = pipe.execute()
        if self._filling:
            return "", int(clock or 0), rest
        if version is None or generation is None:
            raise StoreUnavailableError(f"{self.name}: no such feature store; make one with: unimixer store build")
        if version != str(FORMAT):
            raise wrong_format(self.name, version)
        return generation, int(clock or 0), rest

    @contextmanager
    def _talking(self, no_reply: str = "") -> Iterator[None]:
        """Turn errors of Redis and the network into one sentence, with ``no_reply`` added if no reply came."""
        try:
            yield
        except self._error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            note = no_reply if isinstance(error, self._silent) else ""
            raise StoreUnavailableError(
                f"{self.name}: the feature store cannot be used now ({reason}){note}"
            ) from error
        except UnimixerError:
            raise
        except (KeyError, TypeError, ValueError):
            raise StoreUnavailableError(
                f"{self.name}: the feature store cannot be used now (it holds unexpected values); build it again"
            ) from None


def create(address: str) -> None:
    """Create an empty store."""
    with closing(RedisStore(address)) as store, store.filling(overwrite=False):
        pass


def _without_prefix(address: str) -> tuple[str, str]:
    """Split an address into the part that Redis reads and the prefix of the store."""
    base, _, query = address.partition("?")
    options = [option for option in query.split("&") if option]
    prefixes = [option.removeprefix("prefix=") for option in options if option.startswith("prefix=")]
    rest = "&".join(option for option in options if not option.startswith("prefix="))
    return base + (f"?{rest}" if rest else ""), unquote(prefixes[-1]) if prefixes else PREFIX


def _counts(texts: Sequence[str | None]) -> dict[str, int]:
    users, items, events, trimmed = (int(count or 0) for count in texts)
    return {"users": users, "items": items, "events": events - trimmed}


def _record(fields: dict[str, str]) -> Record | None:
    if not fields:
        return None
    revision = int(fields.pop(REVISION))
    return Record(revision, "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in fields.items()) + "}")


def _item(member: str) -> str:
    return member.partition(":")[2]

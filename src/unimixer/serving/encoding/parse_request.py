"""The body of a ranking request to a call: every name is known, every value is one that a column can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from unimixer.errors import UnimixerError, nearest, unknown
from unimixer.serving.encoding.counts import missing_column
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.errors import json_kind
from unimixer.serving.stores.records import MAX_KEY, check_key, check_value

FIELDS = ("user", "context", "items", "rank_by")


class CallReader:
    """Reads the bodies of ranking requests for one bundle.

    Args:
        encoder: of the bundle; it knows the columns.
        tasks: of the bundle.
        max_candidates: items that a request may have.
    """

    def __init__(self, encoder: RequestEncoder, tasks: tuple[str, ...], *, max_candidates: int) -> None:
        self.tasks, self.max_candidates = tasks, max_candidates
        self.user_key, self.item_key = encoder.users.key, encoder.items.key
        self._user = encoder.users.read | ({self.user_key} if self.user_key else frozenset())
        self._own = encoder.items.read | encoder.context.known - {encoder.context.time or ""}
        self._item = self._own | ({self.item_key} if self.item_key else frozenset())
        self._context = encoder.context.known
        self.required = encoder.context.columns - {encoder.context.time or ""}
        """Columns of the context that every call must send."""
        self._others: dict[str, frozenset[str]] = {}
        self._others_require: frozenset[str] = frozenset()

    @property
    def columns(self) -> dict[str, frozenset[str]]:
        """The columns that every field of a body takes."""
        return {"user": self._user, "items": self._item, "context": frozenset(self._context)}

    def share(self, columns: Mapping[str, frozenset[str]], required: frozenset[str]) -> None:
        """Take and require what the bundles of all arms take and require, so that no arm refuses other calls.

        Args:
            columns: that the bundles and the experiments take, by field of a body; those of others are left out.
            required: columns of the context that the bundles require.
        """
        own = self.columns
        self._user, self._item, self._context = (own[name] | columns[name] for name in own)
        self._others = {name: columns[name] - own[name] for name in own if columns[name] - own[name]}
        self._others_require = required - self.required

    def read(self, body: Mapping[str, Any], *, now: int) -> tuple[RankCall, int]:
        """The call, and the position of the task that its ranking is by.

        Raises:
            UnimixerError: what is wrong where, with the nearest name for one that is not known.
        """
        _known(body, FIELDS, "the body")
        user, user_columns = self._user_of(body.get("user"))
        context = body.get("context", {})
        if not isinstance(context, dict):
            raise UnimixerError(f"context: expected an object of columns, found {json_kind(context)}")
        _columns(context, self._context, "context")
        items, own = self._items_of(body.get("items"))
        for name in self._others_require:
            if name not in context and not all(name in columns for columns in own or ({},)):
                raise missing_column(name)
        if self._others:
            user_columns, context = self._without(user_columns, "user"), self._without(context, "context")
            own = own and [self._without(columns, "items") for columns in own]
        return RankCall(user, items, context, user_columns, own, now), self._task(body.get("rank_by"))

    def _without(self, columns: dict[str, Any], field: str) -> dict[str, Any]:
        """Leave out the columns that other bundles read, and experiments."""
        others = self._others.get(field, ())
        return {name: value for name, value in columns.items() if name not in others}

    def _user_of(self, user: Any) -> tuple[str | int | None, dict[str, Any]]:
        if isinstance(user, dict):
            _columns(user, self._user, "user")
            columns = {name: value for name, value in user.items() if name != self.user_key}
            user = user.get(self.user_key) if self.user_key else None
        else:
            columns = {}
        if user is not None:
            check_key(user, "user")
            if self.user_key is None:
                raise UnimixerError("user: this model knows no users; leave it out")
        return user, columns

    def _items_of(self, items: Any) -> tuple[list[str | int | None], list[dict[str, Any]] | None]:
        if not isinstance(items, list):
            raise UnimixerError(
                f"items: expected a list of keys or objects, found {'nothing' if items is None else json_kind(items)}"
            )
        check_candidates("items", len(items), self.max_candidates)
        plain = self.item_key is not None and set(map(type, items)) == {str}
        if plain and max(map(len, items)) <= MAX_KEY and "".join(items).isascii():
            return items, None
        keys: list[str | int | None] = []
        own: list[dict[str, Any]] = []
        for number, item in enumerate(items):
            where = f"items[{number}]"
            columns: dict[str, Any] = {}
            if isinstance(item, dict):
                _columns(item, self._item, where)
                columns = {name: value for name, value in item.items() if name != self.item_key}
                item = item.get(self.item_key) if self.item_key else None
                if item is not None:
                    check_key(item, where)
            else:
                if item is None or self.item_key is None:
                    raise UnimixerError(f"{where}: expected {'a key or ' if self.item_key else ''}an object of columns")
                check_key(item, where)
            keys.append(item)
            own.append(columns)
        return keys, own if any(own) else None

    def _task(self, name: Any) -> int:
        if name is None:
            return 0
        if name not in self.tasks:
            raise unknown("task", str(name), self.tasks)
        return self.tasks.index(name)


def check_candidates(field: str, number: int, most: int) -> None:
    """Raise if a request has no candidates, or more than ``most``."""
    if not 1 <= number <= most:
        way_out = "; send several requests" if number else ""
        raise UnimixerError(f"{field}: {number:,} candidates, expected 1 to {most:,}{way_out}")


def _known(names: Iterable[str], known: Iterable[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise UnimixerError(f"{where}: unknown field {name!r}{nearest(name, known)}")


def _columns(row: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    _known(row, known, where)
    for name, value in row.items():
        check_value(value, f"{where}.{name}")

"""A snapshot of the events: one state, while others write."""

from __future__ import annotations

from unimixer.abtest.events import Events
from unimixer.abtest.records import Outcome

NOW = 1_772_323_200_000_000


def outcome(number: int) -> Outcome:
    return Outcome(f"e{number}", "u", "click", 1.0, NOW, NOW)


def test_a_snapshot_sees_one_state_and_stops_no_writer(address: str) -> None:
    reader, writer = Events(address), Events(address, timeout=5)
    writer.add_outcomes([outcome(0)])
    with reader.snapshot() as database:
        count = "SELECT COUNT(*) FROM outcomes"
        before = database.execute(count)
        database.execute("CREATE TEMP TABLE mine (x BIGINT)")
        assert writer.add_outcomes([outcome(1)]) == 1
        assert database.execute(count) == before == [(1,)]
        database.execute("DROP TABLE mine")
    assert reader.counts()["outcomes"] == 2
    reader.close()
    writer.close()


def test_a_key_of_json_is_read_as_text(address: str) -> None:
    events = Events(address)
    with events.snapshot() as database:
        expression, key = database.json_text("""'{"country": "de", "a.b": 3}'""", "a.b")
        assert database.execute(f"SELECT {expression}", [key]) == [("3",)]
        for name, text in (('a "b"', "x"), ("$.c", "7"), ("yes", "true"), ("no", "false"), ("none", None)):
            values = """'{"a \\"b\\"": "x", "$.c": 7, "yes": true, "no": false, "none": null, "b": 1}'"""
            expression, key = database.json_text(values, name)
            assert database.execute(f"SELECT {expression}", [key]) == [(text,)]
        expression, key = database.json_text("""'{"country": "de"}'""", "age")
        assert database.execute(f"SELECT {expression}", [key]) == [(None,)]
    events.close()

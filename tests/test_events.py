import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic import events


def test_events_come_back_in_order_with_their_fields(tmp_path):
    writer = events.Writer(tmp_path / "events.jsonl")
    writer.emit("started", pid=7)
    writer.emit("step", step=1, loss=2.5, metrics={"a": 1.0})
    first, second = events.read(tmp_path / "events.jsonl")
    assert (first.kind, first["kind"], first["pid"]) == ("started", "started", 7)
    assert (second["loss"], second["metrics"]) == (2.5, {"a": 1.0})
    assert first.t <= second.t


def test_a_half_written_last_line_is_left_until_the_rest_arrives(tmp_path):
    path = tmp_path / "events.jsonl"
    events.Writer(path).emit("started", pid=1)
    whole = events.Event("step", 1.0, {"step": 1}).to_json().encode()
    reader = events.Reader(path)
    with path.open("ab") as file:
        file.write(whole[:10])
    assert [e.kind for e in reader.new()] == ["started"]
    with path.open("ab") as file:
        file.write(whole[10:] + b"\n")
    assert [e.kind for e in reader.new()] == ["step"]


def test_a_writer_after_a_kill_does_not_glue_its_line_to_the_half_one(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"v":1,"t":1.0,"kind":"step","step":1}\n{"v":1,"t":2.0,"ki')
    events.Writer(path).emit("started", pid=2)
    assert [e.kind for e in events.read(path)] == ["step", "started"]


@given(cut=st.integers(min_value=0, max_value=200))
def test_cutting_the_file_anywhere_loses_at_most_the_last_event(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    writer = events.Writer(path)
    for step in range(5):
        writer.emit("step", step=step, loss=1.0)
    whole = path.read_bytes()
    kept = whole[: max(0, len(whole) - cut)]
    path.write_bytes(kept)
    steps = [e["step"] for e in events.read(path)]
    assert steps == list(range(len(steps)))
    assert len(steps) >= kept.count(b"\n")


def test_numbers_that_are_not_json_become_null(tmp_path):
    path = tmp_path / "events.jsonl"
    events.Writer(path).emit("step", step=1, loss=math.nan, metrics={"x": math.inf})
    raw = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert raw["loss"] is None
    assert raw["metrics"]["x"] is None


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown event kind 'stepp'"):
        events.Writer(tmp_path / "e.jsonl").emit("stepp")

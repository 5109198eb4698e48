from __future__ import annotations

import io
import json

import pytest
from ui_events import sample_run

from ft_magic.events import Event
from ft_magic.ui.live import PLOTLY_MIME, Live
from ft_magic.ui.progress_line import ProgressLine, past
from ft_magic.ui.screens import Frame, Line, Log, Notebook


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Screen:
    """Remembers every frame; may take time or fail."""

    def __init__(self, clock=None, cost_s=0.0, fail=False):
        self.frames, self._clock, self._cost_s, self._fail = [], clock, cost_s, fail

    def __call__(self, frame):
        if self._fail:
            raise OSError("no front end")
        self.frames.append(frame)
        if self._clock:
            self._clock.now += self._cost_s


def test_a_run_is_drawn_at_most_twice_a_second_and_its_end_always():
    clock, screen = Clock(), Screen()
    live = Live("run", clock, screen)
    events = sample_run(resume_at=None)
    for event in events:
        live.update([event])
        clock.now += 0.1
    live.close()
    seconds = 0.1 * len(events)
    assert seconds * 2 * 0.8 <= len(screen.frames) <= seconds * 2 + 3
    assert [frame.final for frame in screen.frames][-2:] == [False, True]
    assert "finished" in screen.frames[-1].text


def test_news_held_back_is_drawn_by_a_later_poll_without_news():
    clock, screen = Clock(), Screen()
    live = Live("run", clock, screen)
    events = sample_run(resume_at=None, end=None)
    live.update(events[:10])
    live.update(events[10:20])
    assert len(screen.frames) == 1
    clock.now += 1
    live.update([])
    assert "step 14" in screen.frames[-1].text or len(screen.frames) == 2
    clock.now += 1
    live.update([])
    assert len(screen.frames) == 2  # nothing new, nothing drawn


def test_a_slow_front_end_gets_fewer_drawings_so_that_they_cost_one_hundredth():
    clock = Clock()
    screen = Screen(clock, cost_s=0.2)
    live = Live("run", clock, screen)
    for event in sample_run(200, resume_at=None, end=None):
        live.update([event])
        clock.now += 1.0
    assert len(screen.frames) <= 200 / 20 + 3


def test_a_run_of_hours_is_drawn_less_often_than_one_of_minutes():
    clock, screen = Clock(), Screen()
    live = Live("run", clock, screen)
    for event in sample_run(1200, resume_at=None, end=None):
        live.update([event])
        clock.now += 3.0
    # Every 15 s in the long run: about 120 x (1 + ln(1800 / 60)) + 1800 / 15 in the first hour.
    assert len(screen.frames) < 700


def test_closing_twice_draws_the_final_state_once():
    screen = Screen()
    live = Live("run", Clock(), screen)
    live.update(sample_run())
    live.close()
    live.close()
    assert sum(frame.final for frame in screen.frames) == 1


def test_a_front_end_that_fails_is_told_once_and_stops_nothing(capsys):
    clock = Clock()
    live = Live("run", clock, Screen(fail=True))
    for event in sample_run():
        live.update([event])
        clock.now += 1
    live.close()
    said = capsys.readouterr().err
    assert said.count("cannot be shown") == 1
    assert "no front end" in said
    assert live.history.step == 60


def test_a_worker_that_ended_without_a_word_is_not_shown_as_running():
    screen = Screen()
    live = Live("run", Clock(), screen)
    live.update(sample_run(end=None))
    live.close("the worker was killed; %ft resume run goes on")
    html = screen.frames[-1].bundle()["text/html"]
    assert "the worker was killed" in html
    assert "failed" in html
    assert "time left" not in html


def test_the_chart_is_a_picture_while_it_changes_and_plotly_at_its_end():
    screen = Screen()
    live = Live("run", Clock(), screen)
    live.update(sample_run(method="dpo")[:9])
    assert set(screen.frames[-1].bundle()) == {"text/html", "text/plain"}
    live.update(sample_run(method="dpo")[9:])
    live.close()
    bundle = screen.frames[-1].bundle()
    assert set(bundle) == {PLOTLY_MIME, "text/html", "text/plain"}
    json.dumps(bundle, allow_nan=False)
    html = bundle["text/html"]
    for lost in ("<style", "<svg", "<progress", "<script", "<a "):
        assert lost not in html
    assert "60 of 60" in html
    assert "tokens/s" in html
    assert "1.96 GiB" in html
    assert "\n" not in bundle["text/plain"]
    # Under 1 MB/s at two drawings a second, which is where jupyter_server starts to drop messages.
    assert len(json.dumps(bundle)) < 250_000


def test_model_and_data_text_is_escaped():
    screen = Screen()
    live = Live("<b>run</b>", Clock(), screen)
    live.update([Event("warning", 1.0, {"message": "<script>1</script>", "fix": ""})])
    live.close()
    bundle = screen.frames[-1].bundle()
    assert "<script" not in bundle["text/html"]
    assert "<b>run" not in bundle["text/html"]
    assert "<script" not in json.dumps(bundle[PLOTLY_MIME])


def test_a_notebook_gets_one_output_that_is_updated(monkeypatch):
    import IPython.display

    calls = []

    class Handle:
        def update(self, bundle, raw):
            calls.append(("update", bundle, raw))

    def display(bundle, raw, display_id):
        calls.append(("display", bundle, raw))
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    screen = Notebook()
    for text in "abc":
        screen(Frame(text, bundle=lambda text=text: {"text/plain": text}))
    assert [(kind, bundle["text/plain"], raw) for kind, bundle, raw in calls] == [
        ("display", "a", True), ("update", "b", True), ("update", "c", True),
    ]  # fmt: skip


def test_a_terminal_gets_one_line_written_over_itself_that_never_wraps():
    out = io.StringIO()
    screen = Line(out, columns=lambda: 20)
    live = Live("run", Clock(), screen)
    live.update(sample_run())
    live.close()
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert all(len(part.replace("\x1b[K", "").rstrip("\n")) < 20 for part in text.split("\r"))


def test_a_log_of_two_thousand_steps_has_few_lines_and_ends_with_the_result():
    out, clock = io.StringIO(), Clock()
    live = Live("run", clock, Log(out))
    for event in sample_run(2000, resume_at=None, step_s=10.0):
        live.update([event])
        clock.now += 10.0
    live.close()
    lines = out.getvalue().splitlines()
    assert 10 <= len(lines) <= 60
    assert "finished" in lines[-1]
    assert "\x1b" not in out.getvalue()


# -- progress of one step


def test_short_steps_show_nothing():
    clock, screen = Clock(), Screen()
    with ProgressLine("Merging", clock=clock, display=screen, heartbeat_s=None) as progress:
        for i in range(10):
            progress("layer", i, 10)
            clock.now += 0.19
    assert screen.frames == []


def test_long_steps_show_time_left_and_keep_a_last_line():
    clock, screen = Clock(), Screen()
    with ProgressLine("Merging", clock=clock, display=screen, heartbeat_s=None) as progress:
        for i in range(30):
            progress(f"layer {i}", i, 30)
            clock.now += 0.5
    # 10 of 30 after 5 s leaves 10 s.
    assert any("33%" in frame.text and "10 s left" in frame.text for frame in screen.frames)
    assert len(screen.frames) <= 15 / 0.5
    assert (screen.frames[-1].text, screen.frames[-1].final) == ("Merged in 15 s", True)
    assert "<table" in screen.frames[0].bundle()["text/html"]


def test_a_step_without_a_known_total_shows_what_it_does():
    clock, screen = Clock(), Screen()
    with ProgressLine("Loading", clock=clock, display=screen, heartbeat_s=None) as progress:
        clock.now += 3
        progress("<weights>", 0, 0)
    assert screen.frames[0].text == "Loading: <weights> \u00b7 3.0 s"
    assert "<weights>" not in screen.frames[0].bundle()["text/html"]


@pytest.mark.parametrize(("error", "word"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_step_that_ends_badly_says_so_and_lets_the_error_go_on(error, word):
    clock, screen = Clock(), Screen()
    with (  # noqa: PT012 - the clock must move inside the step
        pytest.raises(error),
        ProgressLine("Merging", clock=clock, display=screen, heartbeat_s=None) as progress,
    ):
        clock.now += 3
        progress("layer", 1, 2)
        raise error
    assert screen.frames[-1].text == f"Merging: {word} after 3.0 s"


def test_the_seconds_go_on_without_news():
    """The heartbeat's thread draws; the clock is far ahead, so the first beat shows."""
    clock, screen = Clock(), Screen()
    with ProgressLine("Merging", clock=clock, display=screen, heartbeat_s=0.001) as progress:
        clock.now += 60
        for _ in range(2000):
            if screen.frames:
                break
            progress._over.wait(0.005)
    assert "1 min 00 s" in screen.frames[0].text


def test_progress_that_cannot_be_shown_is_told_once_and_stops_nothing(capsys):
    clock = Clock()
    with ProgressLine("Merging", clock=clock, display=Screen(fail=True), heartbeat_s=None) as progress:
        for i in range(9):
            clock.now += 3
            progress("layer", i, 9)
    assert capsys.readouterr().err.count("cannot be shown") == 1


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Merging", "Merged"), ("Quantizing to Q4_K_M", "Quantized to Q4_K_M"), ("Certifying", "Certified"),
        ("Downloading the model", "Downloaded the model"), ("Reading", "Read"), ("Audit", "Audit done"),
    ],
)  # fmt: skip
def test_titles_become_past_tense(title, expected):
    assert past(title) == expected

from __future__ import annotations

import io
import threading

from rich.console import Console

from fl_server.events import Event, EventLog, follow
from fl_server.progress import State, describe, render, show

EVENTS = (
    Event(kind="run_started", time=100, rounds=3, sites={"basel": "train", "davos": "external"}, budget=8.0),
    Event(kind="phase", time=101, status="train", round=1, rounds=3),
    Event(kind="site", time=101, site="basel", status="asked"),
    Event(kind="site", time=109, site="basel", status="accepted", epsilon=1.25),
    Event(kind="site", time=109, site="davos", status="absent", reason="no-reply"),
    Event(kind="round_committed", time=110, round=1, rounds=3, seconds=10),
)


def test_events_come_back_and_a_torn_line_is_skipped(tmp_path, caplog):
    path = tmp_path / "runs" / "events.jsonl"
    log = EventLog(path)
    for event in EVENTS[:3]:
        log(event)
    with path.open("ab") as file:
        file.write(b'{"kind":"si')
    for event in EVENTS[3:]:
        log(event)
    assert tuple(follow(path, stop=lambda: True)) == EVENTS
    assert "torn line" in caplog.text


def test_follow_waits_for_the_file_and_reads_what_comes(tmp_path):
    path, done = tmp_path / "events.jsonl", threading.Event()

    def write():
        for event in EVENTS:
            EventLog(path)(event)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert tuple(follow(path, stop=done.is_set)) == EVENTS
    writer.join()


def test_follow_skips_what_earlier_runs_wrote(tmp_path):
    path = tmp_path / "events.jsonl"
    EventLog(path)(EVENTS[0])
    start = path.stat().st_size
    EventLog(path)(EVENTS[1])
    assert tuple(follow(path, stop=lambda: True, start=start)) == EVENTS[1:2]


def test_progress_that_cannot_be_written_warns_and_goes_on(tmp_path, caplog):
    (tmp_path / "events.jsonl").mkdir()
    EventLog(tmp_path / "events.jsonl")(EVENTS[0])
    assert "progress cannot be written" in caplog.text


def test_the_display_names_every_site_its_state_epsilon_and_time():
    state = State()
    for event in EVENTS:
        state.take(event)
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(render(state, now=130))
    text = console.file.getvalue()
    assert "round 1/3 committed" in text
    assert "0:30 elapsed, about 0:20 left" in text
    assert "1.25 / 8" in text
    assert "absent: no-reply" in text
    assert text.index("basel") < text.index("davos")


def test_without_a_terminal_each_event_is_a_line():
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    state = show((*EVENTS, Event(kind="run_failed", reason="ROUND_FAILED")), console=console)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "2 sites, 0 of 3 rounds committed so far"
    assert "  basel: accepted, epsilon 1.25" in lines
    assert lines[-1] == "failed: ROUND_FAILED"
    assert describe(EVENTS[2]) == ""
    assert state.ended is not None


def test_on_a_terminal_the_table_is_live():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    show(EVENTS, console=console)
    assert "round 1/3 committed" in console.file.getvalue()

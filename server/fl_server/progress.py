"""Live progress of a run on the terminal: round, sites, epsilon, time. Never losses: sites do not send them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fl_server.events import Event

STYLES = {"accepted": "green", "answered": "green", "rejected": "red", "failed": "red", "absent": "yellow"}
PHASES = {
    "hello": "waiting for the sites",
    "statistics": "sites count their patients",
    "keys": "sites make keys",
    "shares": "sites share their secrets",
    "train": "sites are training",
    "unmask": "sites open the sum",
    "aggregate": "aggregating",
    "commit": "committing",
    "learning": "training sites judge the round's model",
    "encoders": "sites release their encoders",
    "recalibrate": "sites count risks for recalibration",
    "evaluate": "sites judge the model",
}


@dataclass
class State:
    """What the display shows, folded from events."""

    rounds: int = 0
    committed: int = 0
    phase: str = "starting"
    roles: dict[str, str] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    epsilon: dict[str, float] = field(default_factory=dict)
    budget: float | None = None
    started: float | None = None
    ended: float | None = None
    seconds: list[float] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Fold one event in."""
        match event.kind:
            case "run_started":
                self.rounds, self.committed, self.budget = event.rounds, event.round, event.budget
                self.roles, self.started = dict(event.sites), event.time
            case "phase":
                self.phase, self.status = PHASES.get(event.status, event.status), {}
            case "site":
                self.status[event.site] = f"{event.status}: {event.reason}" if event.reason else event.status
                if event.epsilon is not None:
                    self.epsilon[event.site] = max(event.epsilon, self.epsilon.get(event.site, 0.0))
            case "round_committed":
                self.committed = event.round
                self.seconds.append(event.seconds)
            case "round_failed":
                self.phase = f"round {event.round} missed its quorum"
            case "run_finished":
                self.phase, self.ended = "finished", event.time
            case "run_failed":
                self.phase, self.ended = f"failed: {event.reason}", event.time

    @property
    def left(self) -> float | None:
        """Expected seconds of the rounds that remain, from the mean of the rounds seen; None before the first."""
        if not self.seconds:
            return None
        return (self.rounds - self.committed) * sum(self.seconds) / len(self.seconds)


def show(events: Iterable[Event], *, console: Console) -> State:
    """Show events until they end: a live table on a terminal, a line an event elsewhere. Returns the last state."""
    state = State()
    if not console.is_terminal:
        for event in events:
            state.take(event)
            if line := describe(event):
                console.print(line, highlight=False, markup=False)
        return state
    with Live(get_renderable=lambda: render(state, now=time.time()), console=console, refresh_per_second=4):
        for event in events:
            state.take(event)
    return state


def describe(event: Event) -> str:
    """One plain line, or "" for what a log need not repeat."""
    round_of = f"round {event.round}/{event.rounds}"
    match event.kind:
        case "run_started" if not event.rounds:
            return f"{len(event.sites)} sites judge a finished model"
        case "run_started":
            return f"{len(event.sites)} sites, {event.round} of {event.rounds} rounds committed so far"
        case "phase":
            return PHASES.get(event.status, event.status)
        case "site" if event.status not in ("asked", "answered"):
            reason = f" ({event.reason})" if event.reason else ""
            epsilon = f", epsilon {event.epsilon:.2f}" if event.epsilon is not None else ""
            return f"  {event.site}: {event.status}{reason}{epsilon}"
        case "round_committed":
            return f"{round_of} committed after {event.seconds:.1f} s"
        case "round_failed":
            return f"{round_of} missed its quorum after {event.seconds:.1f} s"
        case "run_finished":
            return "finished"
        case "run_failed":
            return f"failed: {event.reason}"
        case _:
            return ""


def render(state: State, *, now: float) -> Table:
    """The live table at the time ``now`` (seconds since 1970)."""
    table = Table(box=None, pad_edge=False)
    for column in ("site", "role", "state", "epsilon"):
        table.add_column(column, justify="right" if column == "epsilon" else "left")
    for site, role in sorted(state.roles.items(), key=lambda item: (item[1] == "external", item[0])):
        status = state.status.get(site, "")
        table.add_row(site, role, Text(status, style=STYLES.get(status.split(":")[0], "")), _epsilon(state, site))
    elapsed = (state.ended or now) - state.started if state.started is not None else 0.0
    left = f", about {_duration(state.left)} left" if state.left and state.ended is None else ""
    done = f"round {state.committed}/{state.rounds} committed · " if state.rounds else ""
    head = Text(f"{done}{state.phase} · {_duration(elapsed)} elapsed{left}")
    page = Table.grid()
    for part in (head, ProgressBar(total=max(state.rounds, 1), completed=state.committed, width=60), table):
        page.add_row(part)
    return page


def _epsilon(state: State, site: str) -> str:
    if site not in state.epsilon:
        return ""
    spent = f"{state.epsilon[site]:.2f}"
    return f"{spent} / {state.budget:g}" if state.budget is not None else spent


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

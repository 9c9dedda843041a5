"""How much load, and what came of it: settings, utterances, figures. No network."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from rich.table import Table

from spoken_intents.client import DEFAULT_URL, Message
from spoken_intents.config import require

KEPT_PACE_MS = 20  # a generator that is later than this in more than 5 % of its seconds measures itself
FIGURES = {  # in milliseconds
    "server_intent": "end of turn to intent, the server says",
    "server_message": "  to the bot's first message",
    "server_audio": "  to its first audio",
    "caller_intent": "end of turn to intent, by the caller's clock",
    "caller_message": "  to the bot's first message",
    "caller_audio": "  to its first audio",
    "speech_end_to_message": "end of speech to the bot's first message",
    "generator_lag": "what the callers themselves were late by",
}


@dataclass(frozen=True)
class Wire:
    """What a client sends: its sample rate, and samples in a message."""

    sample_rate: int
    samples: int

    @property
    def seconds(self) -> float:
        """Of one message."""
        return self.samples / self.sample_rate


WIRES = {"telephone": Wire(8_000, 160), "browser": Wire(48_000, 128)}


@dataclass(frozen=True)
class LoadSettings:
    """How many call, and how.

    Attributes:
        url: Of the voice WebSocket.
        callers: Calls at the same time.
        seconds: How long each goes on, answers that are still due not counted.
        ramp_s: In which the calls begin, one after the other.
        messages: ``telephone`` (20 ms each, 8 kHz) or ``browser`` (as Rasa's browser client: 128 samples at 48 kHz).
        late_ms: An answer is late whose first message comes later than this behind the end of the turn.
        seed: Of who says what, how loud, and when.
    """

    url: str
    callers: int = 10
    seconds: float = 60
    ramp_s: float = 5
    messages: str = "telephone"
    late_ms: float = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.url.startswith(("ws://", "wss://")), f"url takes an address such as {DEFAULT_URL}, got {self.url!r}.")
        require(1 <= self.callers <= 1000, f"callers takes 1 to 1000, got {self.callers}.")
        require(1 <= self.seconds <= 3600, f"seconds takes 1 to 3600, got {self.seconds}.")
        require(0 <= self.ramp_s <= 600, f"ramp takes 0 to 600 s, got {self.ramp_s}.")
        require(self.messages in WIRES, f"messages takes {' or '.join(WIRES)}, got {self.messages!r}.")
        require(0 < self.late_ms, f"late takes more than 0 ms, got {self.late_ms}.")

    @property
    def wire(self) -> Wire:
        return WIRES[self.messages]


@dataclass(frozen=True)
class Take:
    """A recording as it goes over the wire.

    Attributes:
        messages: Of its audio, ready to send.
        speech_ends: Its last speech is in the message of this index.
        intent: What it is heard as when nobody else calls.
    """

    name: str
    messages: Sequence[str]
    speech_ends: int
    intent: str


@dataclass
class Said:
    """One utterance of a caller and what became of it; times in ms, positions in ms of the caller's audio.

    Attributes:
        turns: The server's records of the turns that were made of it.
        failed: Whether the server could not answer the first of them.
        latency: The server's figures for the first of them.
        intent_ms, message_ms, audio_ms: From the end of that turn to what came back, by the caller's clock: since the audio
            that ended it was due to be sent.
        answered_ms: Likewise from the end of the speech to the bot's first message.
    """

    take: Take
    begin_ms: float
    speech_end_ms: float
    end_ms: float
    turns: List[Message] = field(default_factory=list)
    failed: bool = False
    latency: Dict[str, float] = field(default_factory=dict)
    intent_ms: Optional[float] = None
    message_ms: Optional[float] = None
    audio_ms: Optional[float] = None
    answered_ms: Optional[float] = None

    @property
    def answered(self) -> bool:
        return bool(self.turns) and not self.failed

    @property
    def right(self) -> bool:
        """Whether its first turn is of the intent in `take`, and did not fail."""
        return self.answered and self.turns[0].get("intent") == self.take.intent


@dataclass
class Report:
    """What came of it.

    Attributes:
        uncalled: Turns that the server made of what nobody said.
        failed: Turns that the server said it could not answer. One that it could not even hear leaves its utterance lost, too.
        rejected: Utterances that the server took for noise, or for an "uh-huh" over the bot's speech.
        dropped: Why calls ended before their time, and how many.
        lag_ms: The generator's own lateness: by how much the latest message of each caller's each second was sent late.
    """

    settings: LoadSettings
    said: List[Said] = field(default_factory=list)
    uncalled: int = 0
    failed: int = 0
    rejected: int = 0
    dropped: "Counter[str]" = field(default_factory=Counter)
    lag_ms: List[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Utterances that got no answer."""
        return sum(not said.turns for said in self.said)

    @property
    def passed(self) -> bool:
        """Whether something was said, and all of it answered, in calls that lasted."""
        return bool(self.said) and not (self.lost or self.failed or self.dropped)

    @property
    def kept_pace(self) -> bool:
        """Whether the callers themselves were in time; when not, the figures are theirs as much as the server's."""
        return not self.lag_ms or bool(np.percentile(self.lag_ms, 95) < KEPT_PACE_MS)

    def unsay(self, said: Sequence[Said]) -> None:
        """Forgets utterances that nobody can answer any more, as the bot has hung up."""
        gone = set(map(id, said))
        self.said = [one for one in self.said if id(one) not in gone]

    def counts(self) -> Dict[str, int]:
        """Utterances said, and how many of them were right, late and so on."""
        return {
            "said": len(self.said),
            "right": sum(said.right for said in self.said),
            "wrong": sum(said.answered and not said.right for said in self.said),
            "failed": self.failed,
            "lost": self.lost,
            "silent": sum(said.answered and said.message_ms is None for said in self.said),
            "late": sum(said.message_ms is not None and said.message_ms > self.settings.late_ms for said in self.said),
            "double": self.uncalled + sum(max(0, len(said.turns) - 1) for said in self.said),
        }

    def problems(self) -> List[str]:
        """What makes the figures worse than they look, a sentence each."""
        dropped = ", ".join(f"{reason} ({count})" for reason, count in self.dropped.items())
        said = [f"Calls that ended before their time: {dropped}."] if dropped else []
        if not self.said:
            said.append("Nobody has said anything. Take more --seconds than a recording and the pause before it last.")
        if self.rejected:
            said.append(f"{self.rejected} utterances were taken for noise, or for an uh-huh over the bot's speech.")
        if not self.kept_pace:
            said.append(
                "The callers could not keep pace: the figures are theirs as much as the server's. Take fewer, or another machine."
            )
        return said

    def latencies(self) -> Dict[str, Dict[str, float]]:
        """Of each figure in milliseconds: median, p95, p99, max, and of how many."""
        said = self.said
        values: Dict[str, Sequence[Optional[float]]] = {
            "server_intent": [one.latency.get("asr_latency_ms") for one in said],
            "server_message": [one.latency.get("first_response_latency_ms") for one in said],
            "server_audio": [one.latency.get("tts_first_byte_latency_ms") for one in said],
            "caller_intent": [one.intent_ms for one in said],
            "caller_message": [one.message_ms for one in said],
            "caller_audio": [one.audio_ms for one in said],
            "speech_end_to_message": [one.answered_ms for one in said],
            "generator_lag": self.lag_ms,
        }
        return {name: _distribution(figures) for name, figures in values.items() if any(one is not None for one in figures)}

    def tables(self) -> List[Table]:
        """What became of the utterances, and how soon they were answered."""
        counts = self.counts()
        turns = Table(*counts, title=f"{self.settings.callers} callers, utterances")
        turns.add_row(*map(str, counts.values()))
        soon = Table("milliseconds", "median", "95 %", "99 %", "most")
        for name, figures in self.latencies().items():
            soon.add_row(FIGURES[name], *(f"{figures[key]:.0f}" for key in ("median", "p95", "p99", "max")))
        return [turns, soon]

    def as_json(self) -> Dict[str, Any]:
        """Everything but the single utterances."""
        settings = {name: value for name, value in vars(self.settings).items() if name != "url"}
        return {
            **settings,
            "counts": self.counts(),
            "rejected": self.rejected,
            "dropped_calls": dict(self.dropped),
            "ahead": float(np.mean([said.turns[0].get("ahead", False) for said in self.said if said.turns] or [0.0])),
            "kept_pace": self.kept_pace,
            "latency_ms": self.latencies(),
        }


def _distribution(figures: Sequence[Optional[float]]) -> Dict[str, float]:
    values = np.array([figure for figure in figures if figure is not None])
    median, p95, p99 = np.percentile(values, [50, 95, 99])
    named = {"median": median, "p95": p95, "p99": p99, "max": values.max()}
    return {**{name: round(float(value), 1) for name, value in named.items()}, "n": len(values)}

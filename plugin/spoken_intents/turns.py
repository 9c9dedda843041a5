"""What a session tells of itself: the turns of a conversation, their figures, and what happened between them."""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Union

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.recognizer import Recognition
from spoken_intents.segmenter import SpeechPaused, SpeechResumed, SpeechStarted, Utterance


@dataclass(frozen=True)
class Interruption:
    """How much of what the bot was saying the caller heard before breaking it off, in milliseconds."""

    heard_ms: float
    of_ms: float

    def as_json(self) -> Dict[str, int]:
        """For messages and for the tracker."""
        return {"heard_ms": round(self.heard_ms), "of_ms": round(self.of_ms)}


@dataclass
class Turn:
    """What the caller said at once, and how long each step took, in milliseconds.

    Attributes:
        number: Of the call's turns that were answered or failed, from 1; 0 until it is known to be one.
        text: What Rasa gets: an audio reference, or what was typed.
        recognition: What was heard; None for a typed turn.
        utterance: The audio; None for a typed turn.
        ahead: Whether the answer was there before the turn was over, so that nobody waited for it.
        failed: Whether it could not be answered.
        interrupted: What of the bot's speech this turn broke off.
        ended_at: When the audio that ended the turn came, by ``time.perf_counter``, in seconds; waiting for a late answer,
            which holds the end up, is behind it.
        endpoint_delay_ms: From the end of speech to the decision that the turn is over, in the audio's time.
        asr_latency_ms: From the end of the turn to its intent.
        first_response_latency_ms: From the end of the turn to the bot's first message; None without one.
        rasa_processing_latency_ms: What Rasa took for the whole turn.
        tts_first_byte_latency_ms: From the end of the turn to the first audio; None when nothing was spoken.
        tts_complete_latency_ms: From the end of the turn to the last audio; likewise.
        playback_end_ms: Where in the caller's audio the answer's playback ended; None until it has.
    """

    text: str
    recognition: Optional[Recognition] = None
    utterance: Optional[Utterance] = None
    ahead: bool = False
    failed: bool = False
    number: int = 0
    interrupted: Optional[Interruption] = None
    ended_at: float = 0.0
    endpoint_delay_ms: float = 0.0
    asr_latency_ms: float = 0.0
    first_response_latency_ms: Optional[float] = None
    rasa_processing_latency_ms: float = 0.0
    tts_first_byte_latency_ms: Optional[float] = None
    tts_complete_latency_ms: Optional[float] = None
    playback_end_ms: Optional[float] = None

    def latency(self) -> Dict[str, float]:
        """The figures by name, without those that this turn has none of."""
        names = [name for name in vars(self) if name.endswith("_latency_ms")]
        return {name: round(getattr(self, name), 1) for name in [*names, "endpoint_delay_ms"] if getattr(self, name) is not None}

    def spoken(self) -> Optional[Dict[str, Any]]:
        """What was heard and when in the stream, small enough for the tracker; None for a typed turn."""
        if self.recognition is None or self.utterance is None:
            return None
        return {
            "intent": self.recognition.intent,
            "confidence": round(self.recognition.confidence, 4),
            "start_ms": milliseconds(self.utterance.start_sample),
            "end_ms": milliseconds(self.utterance.speech_end_sample),
        }

    def record(self) -> Dict[str, Any]:
        """Everything that is known of the turn but its audio, for the log and for the client."""
        record: Dict[str, Any] = {"number": self.number, "interrupted": self.interrupted.as_json() if self.interrupted else None}
        if self.playback_end_ms is not None:
            record["playback_end_ms"] = round(self.playback_end_ms)
        if self.recognition is None or self.utterance is None:
            return record
        return {
            "start_ms": milliseconds(self.utterance.start_sample),
            "speech_end_ms": milliseconds(self.utterance.speech_end_sample),
            "end_ms": milliseconds(self.utterance.end_sample),
            "intent": self.recognition.intent,
            "confidence": round(self.recognition.confidence, 4),
            "ahead": self.ahead,
            **record,
        }


@dataclass(frozen=True)
class HeardAhead:
    """What the utterance holds so far, classified in the pause that began at `at_sample`; it may go on."""

    at_sample: int
    recognition: Recognition


@dataclass(frozen=True)
class NotSpeech:
    """What sounded like speech was none; there is no turn."""

    recognition: Recognition


@dataclass(frozen=True)
class Backchannel:
    """An "uh-huh" while the bot spoke; there is no turn, and the bot goes on."""

    recognition: Recognition


@dataclass(frozen=True)
class Silence:
    """Nobody has spoken for the set time, for the `count`-th time in a row."""

    count: int


@dataclass(frozen=True)
class TurnStarted:
    """It is known what the caller said; Rasa gets it next."""

    turn: Turn


@dataclass(frozen=True)
class TurnFailed:
    """Rasa could not answer; the end of the turn follows."""

    turn: Turn
    message: str


@dataclass(frozen=True)
class TurnOver:
    """Playback of the answer is over, too, or nobody listens any more: all is known of the turn that ever will be."""

    turn: Turn


Happening = Union[
    SpeechStarted,
    SpeechPaused,
    SpeechResumed,
    HeardAhead,
    Utterance,
    NotSpeech,
    Backchannel,
    Silence,
    TurnStarted,
    TurnFailed,
    TurnOver,
]


def milliseconds(samples: int) -> int:
    """Of so many samples."""
    return samples * 1000 // SAMPLE_RATE

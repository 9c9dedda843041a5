"""Where words part in a clip, its own background, and what is heard at each pause: what the turn-end output learns from.

No pause holds zeros: a caller's line is never that still, and a model would learn to hear the difference.
"""

from typing import List, Sequence, Tuple

import numpy as np

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.segmenter import Segmenter, SegmenterSettings, SpeechPaused

FRAME = SAMPLE_RATE // 100  # over which a level is measured
VOWEL_FRAMES = 10  # speech is as loud as its tenth loudest frame: a vowel lasts 100 ms, a click does not
SPEECH_DB, GAP_DB = 30, 20  # below it a clip's speech has ended, soft endings included, and words part
ABOVE_DB = 8  # nor is speech so little above the background
CLICK_FRAMES, STOP_FRAMES = 6, 30  # no vowel is so short, and no "t" so late after its vowel
GAP_FRAMES = 10  # words part in a longer silence than the closure of a "p" within one
WORD_FRAMES = 20  # of speech, at least, on either side of a gap
QUIETEST_DB = 6  # above a clip's quietest grain others still are background
GRAIN = SAMPLE_RATE * 40 // 1000  # of background
BEFORE, BEHIND = 400 * SAMPLE_RATE // 1000, 600 * SAMPLE_RATE // 1000  # background around what is said
PAUSE_MS = (300, 900)  # of those put in
NEVER_ENDS = SegmenterSettings(turn_end="fixed", min_silence_duration_ms=10_000)  # reports every pause
DITHER = np.float32(2.0**-16)  # half a step of 16-bit samples, for clips whose background is digital silence


def levels_db(samples: np.ndarray) -> np.ndarray:
    """Level of each 10 ms, averaged in power over 30 ms, in dB of full scale, shape (frames,)."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    power = np.pad((frames**2).mean(axis=1), 1, mode="edge")
    return 10 * np.log10(np.convolve(power, np.full(3, 1 / 3), mode="valid") + 1e-10)


def spoken(samples: np.ndarray, within_db: float) -> np.ndarray:
    """Whether somebody speaks in each 10 ms: so near the level of the clip's speech, shape (frames,).

    Everywhere in a clip whose speech does not stand out.
    """
    levels = levels_db(samples)
    speech, background = np.sort(levels)[-min(VOWEL_FRAMES, len(levels))], np.percentile(levels, 5)
    return levels > max(speech - within_db, min(background + ABOVE_DB, speech - ABOVE_DB))


def speech_span(samples: np.ndarray) -> Tuple[int, int]:
    """The sample where the speech of a clip begins and the one where it ends, by energy.

    What is loud for less than `CLICK_FRAMES` is speech only within `STOP_FRAMES` of some that is loud for longer, as a final
    "t" is: else somebody pressed a key, which recordings often begin or end with.
    """
    speech = np.concatenate([[0], spoken(samples, SPEECH_DB), [0]])
    runs = np.flatnonzero(np.diff(speech)).reshape(-1, 2)  # each begins and ends
    long = runs[np.ptp(runs, axis=1) >= CLICK_FRAMES]
    begins, ends = (long if len(long) else runs)[[0, -1], [0, 1]]
    for begin, _ in runs[::-1]:
        begins = begin if begin < begins <= begin + STOP_FRAMES else begins
    for _, end in runs:
        ends = end if end - STOP_FRAMES <= ends < end else ends
    return int(begins) * FRAME, int(ends) * FRAME


def gaps(samples: np.ndarray) -> List[int]:
    """Samples at which words part: the quietest place of each long enough silence well within the speech."""
    speech, levels = spoken(samples, GAP_DB), levels_db(samples)
    edges = np.flatnonzero(np.diff(np.concatenate([[1], speech, [1]])))  # silences begin and end in turn
    found = []
    for start, end in edges.reshape(-1, 2):
        enough = min(speech[:start].sum(), speech[end:].sum()) >= WORD_FRAMES
        if end - start >= GAP_FRAMES and enough:
            found.append(int(start + levels[start:end].argmin()) * FRAME + FRAME // 2)
    return found


def background(samples: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` samples of what is heard in a clip where nobody speaks: short grains of it in random order, overlapping."""
    levels = levels_db(samples)
    frames = GRAIN // FRAME
    loudest = np.array([levels[start : start + frames].max() for start in range(max(1, len(levels) - frames + 1))])
    quiet = np.flatnonzero(loudest <= loudest.min() + QUIETEST_DB) * FRAME  # where a grain may begin
    half = GRAIN // 2
    window = np.sin(np.pi * (np.arange(GRAIN) + 0.5) / GRAIN)  # the powers of two that overlap add up to 1
    made = np.zeros((length // half + 2) * half)
    for start in range(0, len(made) - half, half):
        place = rng.choice(quiet)
        grain = np.resize(samples[place : place + GRAIN], GRAIN)
        made[start : start + GRAIN] += window * grain
    dither = DITHER * rng.choice((-1.0, 1.0), length)
    return (made[half : half + length] + dither).astype(np.float32)


def with_pauses(samples: np.ndarray, pauses: Sequence[Tuple[int, int]], rng: np.random.Generator) -> np.ndarray:
    """The clip with its own background put in at samples: (where, how many), ascending."""
    parts, last = [], 0
    for at, length in pauses:
        parts += [samples[last:at], background(samples, length, rng)]
        last = at
    return np.concatenate([*parts, samples[last:]])


def stream(samples: np.ndarray, opened: int, behind: int, rng: np.random.Generator) -> Tuple[np.ndarray, int]:
    """A clip as a line brings it, and the sample at which its speech ends.

    Args:
        opened: Pauses of `PAUSE_MS` to put in at most, each where words part.
        behind: Samples of background behind the clip. Where a pause was put in, the clip's own end goes soon after
            its last speech, so that it ends as each word before a pause does.
    """
    begins, ends = speech_span(samples)
    places = gaps(samples)
    places = sorted(rng.choice(places, min(opened, len(places)), replace=False).tolist()) if opened and places else []
    pauses = [(place, int(rng.integers(*PAUSE_MS)) * SAMPLE_RATE // 1000) for place in places]
    kept = ends + int(rng.integers(30, 100)) * SAMPLE_RATE // 1000 if pauses else len(samples)
    end = BEFORE + ends + sum(length for _, length in pauses)
    line = with_pauses(samples, [(0, BEFORE), *pauses, (min(kept, len(samples)), behind)], rng)
    return line[: len(line) - max(0, len(samples) - kept)], end


def heard_at_pauses(line: np.ndarray, end: int, clean: np.ndarray) -> List[Tuple[np.ndarray, bool]]:
    """What the segmenter hands over at each pause of a line, and whether it holds all that is said until `end`.

    Args:
        clean: The line without noise: where somebody speaks in it, the detector is mistaken and there is no pause.
    """
    silent = ~spoken(clean, GAP_DB)
    tail = NEVER_ENDS.pause_ms * SAMPLE_RATE // 1000
    heard = []
    for event in Segmenter(NEVER_ENDS).push(line):
        if isinstance(event, SpeechPaused):
            complete = event.at_sample + tail >= end
            if complete or silent[event.at_sample // FRAME : (event.at_sample + tail) // FRAME].sum() >= GAP_FRAMES:
                heard.append((event.samples, complete))
            if complete:
                break
    return heard

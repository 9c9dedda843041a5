"""Audio references: what is one, where it may point; and the hand-off."""

import threading
from pathlib import Path
from typing import List

import numpy as np
import pytest

from spoken_intents.errors import AudioError, AudioReferenceError
from spoken_intents.utterances import LIVE, HandOff, LiveUtterance, is_audio_reference, resolve

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    "text",
    [
        "audio/freeze/0007.flac",
        "audio/a.wav",
        "live/0123abcd.wav",
        "recordings/2024-05-01/x.ogg",
        "audio/my clip.opus",
        "audio/UPPER.WAV",
        "audio/ünïcode.mp3",
        "../x.wav",  # a reference; `resolve` refuses it
    ],
)
def test_is_a_reference(text: str) -> None:
    assert is_audio_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "a.wav",  # no directory: nobody's sentence shall be taken for a file
        "I listened to song.mp3",
        "/audio/a.wav",
        "audio//a.wav",
        "audio\\a.wav",
        "audio/a.wav please",
        "play audio/a.wav now",
        "audio/a.txt",
        "audio/wav",
        "audio/a.wav\n",
        "audio/a\nb.wav",
        "audio/a\0.wav",
        " ",
        None,
        7,
        b"audio/a.wav",
        ["audio/a.wav"],
    ],
)
def test_is_no_reference(text: object) -> None:
    assert not is_audio_reference(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one clip, and a secret beside it."""
    project = tmp_path / "project"
    for file in ("audio/freeze/1.wav", "audio2/1.wav", "recordings/1.wav"):
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_bytes(b"clip")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.wav").write_bytes(b"secret")
    return project


def test_a_clip_inside_is_found(project: Path) -> None:
    assert resolve("audio/freeze/1.wav", ["audio"], project) == (project / "audio/freeze/1.wav").resolve()
    assert resolve("recordings/1.wav", ["audio", "recordings"], project).read_bytes() == b"clip"
    assert resolve("audio/freeze/../freeze/1.wav", ["audio"], project) == (project / "audio/freeze/1.wav").resolve()


def test_references_start_at_the_working_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert resolve("audio/freeze/1.wav", ["audio"]) == (project / "audio/freeze/1.wav").resolve()


@pytest.mark.parametrize(
    "reference",
    [
        "audio2/1.wav",  # begins like an allowed one
        "recordings/1.wav",
        "../secret/key.wav",
        "audio/../../secret/key.wav",
        "audio/../audio2/1.wav",
        "audio/..",
        "live/0123.wav",
        "plain words",
        "",
    ],
)
def test_outside_is_refused(project: Path, reference: str) -> None:
    with pytest.raises(AudioReferenceError, match=r"outside the audio directories \(audio\)\..*setting audio_directories"):
        resolve(reference, ["audio"], project)


def test_absolute_is_refused_even_inside(project: Path) -> None:
    for reference in (str(project / "audio/freeze/1.wav"), str(project.parent / "secret/key.wav")):
        with pytest.raises(AudioReferenceError, match="outside the audio directories"):
            resolve(reference, ["audio"], project)


def test_a_link_out_is_refused_and_one_inside_is_not(project: Path) -> None:
    (project / "audio/out.wav").symlink_to(project.parent / "secret/key.wav")
    (project / "audio/outdir").symlink_to(project.parent / "secret")
    (project / "audio/again.wav").symlink_to(project / "audio/freeze/1.wav")
    for reference in ("audio/out.wav", "audio/outdir/key.wav"):
        with pytest.raises(AudioReferenceError, match="outside the audio directories"):
            resolve(reference, ["audio"], project)
    assert resolve("audio/again.wav", ["audio"], project).read_bytes() == b"clip"


def test_what_is_not_there_is_refused(project: Path) -> None:
    (project / "audio/folder.wav").mkdir()
    for reference in ("audio/freeze/2.wav", "audio/folder.wav"):
        with pytest.raises(AudioReferenceError, match=f"{reference}: no such file in"):
            resolve(reference, ["audio"], project)


@pytest.mark.parametrize(
    "reference",
    [
        f"audio/{'a' * 300}.wav",  # longer than a file name may be
        f"audio/{'a/' * 3000}b.wav",
        "audio/\ud800.wav",  # JSON can say this, a file system cannot
        "audio/a\0b.wav",
    ],
    ids=["long name", "long path", "lone surrogate", "NUL"],
)
def test_what_no_file_can_be_called_is_refused_all_the_same(project: Path, reference: str) -> None:
    with pytest.raises(AudioReferenceError):
        resolve(reference, ["audio"], project)


def test_a_refused_reference_is_an_audio_error() -> None:
    assert issubclass(AudioReferenceError, AudioError)


# ---------------------------------------------------------------- the hand-off


def utterance(value: float = 0.0) -> LiveUtterance:
    return LiveUtterance(np.full(10, value, dtype=np.float32), None)


def test_each_utterance_is_taken_once() -> None:
    held = HandOff()
    first, second = utterance(1), utterance(2)
    references = [held.put(first), held.put(second)]
    assert len(held) == 2
    assert held.take(references[1]) is second and held.take(references[0]) is first
    assert len(held) == 0
    with pytest.raises(AudioReferenceError, match=f"{references[0]}: no such live utterance; each is used once"):
        held.take(references[0])


def test_what_never_existed_cannot_be_taken() -> None:
    with pytest.raises(AudioReferenceError, match="no such live utterance"):
        HandOff().take("live/guessed.wav")


def test_a_live_reference_is_a_reference_that_nobody_guesses() -> None:
    held = HandOff()
    references = {held.put(utterance()) for _ in range(200)}
    assert len(references) == 200
    assert all(is_audio_reference(reference) and reference.startswith(LIVE) for reference in references)
    assert all(len(reference) >= len(LIVE) + 32 for reference in references)


def test_the_oldest_gives_way() -> None:
    held = HandOff(capacity=3)
    references = [held.put(utterance(i)) for i in range(5)]
    assert len(held) == 3
    for reference in references[:2]:
        with pytest.raises(AudioReferenceError):
            held.take(reference)
    assert [held.take(reference).samples[0] for reference in references[2:]] == [2, 3, 4]


def test_discard_lets_go_and_minds_nothing() -> None:
    held = HandOff()
    reference = held.put(utterance())
    held.discard(reference)
    held.discard(reference)
    held.discard("a typed turn")
    assert len(held) == 0


def test_many_threads_take_each_utterance_once() -> None:
    held = HandOff(capacity=1000)
    references = [held.put(utterance()) for _ in range(300)]
    taken: List[str] = []

    def take_all() -> None:
        for reference in references:
            try:
                held.take(reference)
                taken.append(reference)
            except AudioReferenceError:
                pass

    threads = [threading.Thread(target=take_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(references)

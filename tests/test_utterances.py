"""Audio references: what is one, where it may point; and the hand-off."""

import os
import shutil
import socket
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

from spoken_intents.audio import read_audio
from spoken_intents.errors import AudioError, AudioReferenceError
from spoken_intents.utterances import LIVE, HandOff, LiveUtterance, is_audio_reference, open_clip, resolve, shown

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


TRICKS = {
    "long name": f"audio/{'a' * 300}.wav",
    "long path": f"audio/{'a/' * 3000}b.wav",
    "megabyte": f"audio/{'a' * 2**20}.wav",
    "lone surrogate": "audio/\ud800.wav",  # JSON can say this, a file system cannot
    "NUL": "audio/a\0b.wav",
    "NUL behind": "../secret/key.wav\0.wav",
    "absolute": "{secret}",
    "absolute inside": "audio/{secret}",
    "up": "audio/../../secret/key.wav",
    "up from a name of its own": "audio/.../../../secret/key.wav",
    "up from what is not there": "audio/nothing/../../../secret/key.wav",
    "home": "~/secret/key.wav",
    "a link": "audio/out.wav",
    "a directory that is a link": "audio/outdir/key.wav",
    "up from a directory that is a link": "audio/outdir/../secret/key.wav",
    "a link to a link": "audio/twice.wav",
    "a loop of links": "audio/loop.wav",
    "a descriptor of the process": "audio/outfd/0/x.wav",
    "percent": "audio/%2e%2e/%2e%2e/secret/key.wav",
    "full-width slash": "audio/..\uff0f..\uff0fsecret\uff0fkey.wav",
    "full-width dots": "audio/\uff0e\uff0e/\uff0e\uff0e/secret/key.wav",
    "one dot leader": "audio/\u2024\u2024/\u2024\u2024/secret/key.wav",
    "division slash": "audio/..\u2215..\u2215secret\u2215key.wav",
    "right to left": "audio/\u202evaw.yek/terces/../..\u202c.wav",
    "zero width": "audio/.\u200b./.\u200b./secret/key.wav",
    "decomposed": "audio/u\u0308nicode.wav",  # of a clip that is written with one sign
    "other case": "AUDIO/freeze/1.wav",
    "other case of live": "LIVE/0123.wav",
    "drive": "C:/secret/key.wav",
    "drive inside": "audio/C:/secret/key.wav",
    "drive of its own directory": "C:audio/freeze/1.wav",
    "UNC": "\\\\server\\share\\key.wav",
    "backslash": "audio\\..\\..\\secret\\key.wav",
    "both": "audio/..\\../secret/key.wav",
    "device of Windows": "audio/CON.wav",
    "trailing dot": "audio/freeze/1.wav.",
    "trailing dot in a directory": "audio./freeze/1.wav",
    "trailing blank": "audio/freeze/1.wav ",
    "stream": "audio/freeze/1.wav:secret.wav",
    "stream of a directory": "audio::$INDEX_ALLOCATION/freeze/1.wav",
    "URL": "file:///etc/x.wav",
    "new line": "audio/x\n../../secret/key.wav",
}


@pytest.mark.parametrize("reference", TRICKS.values(), ids=TRICKS)
def test_no_trick_leads_out(project: Path, reference: str) -> None:
    secret = project.parent / "secret"
    for link, target in (("out.wav", secret / "key.wav"), ("outdir", secret), ("twice.wav", project / "audio/out.wav")):
        (project / "audio" / link).symlink_to(target)
    (project / "audio/loop.wav").symlink_to("loop.wav")
    (project / "audio/outfd").symlink_to("/proc/self/fd")
    (project / "audio/\u00fcnicode.wav").write_bytes(b"clip")
    for look in (resolve, open_clip):
        with pytest.raises(AudioReferenceError) as caught:
            look(reference.format(secret=secret / "key.wav"), ["audio"], project)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000  # it is logged


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory", "device by a link"])
def test_only_files_are_opened_and_nobody_waits_for_others(project: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = project / "audio/x.wav"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        monkeypatch.chdir(place.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.wav")
    elif kind == "directory":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero")
    with pytest.raises(AudioReferenceError):
        open_clip("audio/x.wav", ["audio"], project)
    with pytest.raises(AudioError, match="Not a regular file"):
        read_audio(place, 1)


def test_what_was_looked_at_is_opened_and_read(project: Path) -> None:
    with open_clip("audio/freeze/1.wav", ["audio"], project) as clip:
        assert clip.read() == b"clip"


@pytest.mark.parametrize(("swapped", "other"), [("audio/freeze/1.wav", "secret/1.wav"), ("audio/freeze", "secret")])
def test_what_becomes_a_link_between_look_and_opening_is_not_followed(
    project: Path, monkeypatch: pytest.MonkeyPatch, swapped: str, other: str
) -> None:
    (project.parent / "secret/1.wav").write_bytes(b"secret")
    look = Path.is_file

    def look_and_swap(path: Path) -> bool:
        found = look(path)
        (project / swapped).rename(project / "aside")
        (project / swapped).symlink_to(project.parent / other)
        return found

    monkeypatch.setattr(Path, "is_file", look_and_swap)
    with pytest.raises(AudioReferenceError, match="audio/freeze/1.wav: cannot be opened"):
        open_clip("audio/freeze/1.wav", ["audio"], project)


def test_what_becomes_a_pipe_between_look_and_opening_is_not_waited_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, look = project / "audio/freeze/1.wav", os.stat

    def look_and_swap(path: str, **how: Any) -> os.stat_result:
        status = look(path, **how)
        if path == clip.name:
            clip.unlink()
            os.mkfifo(clip)
        return status

    monkeypatch.setattr(os, "stat", look_and_swap)
    with pytest.raises(AudioReferenceError, match="cannot be opened .Not a regular file"):
        open_clip("audio/freeze/1.wav", ["audio"], project)


def test_every_descriptor_is_closed(project: Path) -> None:
    before = len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))
    for reference in ("audio/freeze/1.wav", "audio/freeze/2.wav", "audio/../../secret/key.wav"):
        try:
            open_clip(reference, ["audio"], project).close()
        except AudioReferenceError:
            pass
    shutil.rmtree(project / "audio/freeze")
    assert len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")) == before


def test_a_reference_is_shown_so_that_a_log_can_hold_it() -> None:
    assert shown("audio/a\x1b[2J\u202e\n.wav") == "audio/a?[2J??.wav"
    assert shown("audio/ü ñ.wav") == "audio/ü ñ.wav"
    assert len(shown("a" * 10_000)) == 200


def test_a_refused_reference_is_an_audio_error() -> None:
    assert issubclass(AudioReferenceError, AudioError)


# ---------------------------------------------------------------- the hand-off


def utterance(value: float = 0.0) -> LiveUtterance:
    return LiveUtterance(np.full(10, value, dtype=np.float32), None)


class Turn:
    """What a task is to the hand-off: what it has put, itself and what it calls may take."""

    def __init__(self, held: HandOff) -> None:
        self._held = held
        self._task = copy_context()

    def put(self, live: LiveUtterance) -> str:
        return self._task.run(self._held.put, live)

    def take(self, reference: str) -> LiveUtterance:
        return self._task.copy().run(self._held.take, reference)


def test_each_utterance_is_taken_once() -> None:
    held = HandOff()
    turns, utterances = [Turn(held), Turn(held)], [utterance(1), utterance(2)]
    references = [turn.put(live) for turn, live in zip(turns, utterances)]
    assert len(held) == 2
    for number in (1, 0):
        assert turns[number].take(references[number]) is utterances[number]
    assert len(held) == 0
    with pytest.raises(AudioReferenceError, match=f"{references[0]}: no such live utterance; each is used once"):
        turns[0].take(references[0])


def test_what_never_existed_cannot_be_taken() -> None:
    with pytest.raises(AudioReferenceError, match="no such live utterance"):
        HandOff().take("live/guessed.wav")


def test_nobody_takes_anothers_and_a_try_uses_nothing_up() -> None:
    """Somebody has read a call's reference somewhere, and says it over another channel."""
    held = HandOff()
    call, other, stranger = Turn(held), Turn(held), HandOff()
    mine, theirs = utterance(1), utterance(2)
    reference, another = call.put(mine), other.put(theirs)
    for thief in (other.take, held.take, stranger.take):
        with pytest.raises(AudioReferenceError, match="by the call that it was heard in"):
            thief(reference)
    assert len(held) == 2
    assert call.take(reference) is mine and other.take(another) is theirs


def test_a_live_reference_is_a_reference_that_nobody_guesses() -> None:
    held = HandOff()
    references = {held.put(utterance()) for _ in range(200)}
    assert len(references) == 200
    assert all(is_audio_reference(reference) and reference.startswith(LIVE) for reference in references)
    assert all(len(reference) >= len(LIVE) + 32 for reference in references)


def test_the_oldest_gives_way() -> None:
    held = HandOff(capacity=3)
    turns = [Turn(held) for _ in range(5)]
    references = [turn.put(utterance(number)) for number, turn in enumerate(turns)]
    assert len(held) == 3
    for turn, reference in list(zip(turns, references))[:2]:
        with pytest.raises(AudioReferenceError):
            turn.take(reference)
    assert [turn.take(reference).samples[0] for turn, reference in list(zip(turns, references))[2:]] == [2, 3, 4]


def test_discard_lets_go_and_minds_nothing() -> None:
    held = HandOff()
    reference = held.put(utterance())
    held.discard(reference)
    held.discard(reference)
    held.discard("a typed turn")
    assert len(held) == 0


def test_many_threads_take_each_utterance_once() -> None:
    held = HandOff(capacity=1000)
    turns = [Turn(held) for _ in range(300)]
    references = [turn.put(utterance()) for turn in turns]
    taken: List[str] = []

    def take_all() -> None:
        for turn, reference in zip(turns, references):
            try:
                turn.take(reference)
                taken.append(reference)
            except AudioReferenceError:
                pass

    threads = [threading.Thread(target=take_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(references)


def test_files_are_read_again_when_every_channel_is_gone() -> None:
    held = HandOff()
    assert not held.live_only
    held.serve("voice")
    held.serve("telephone")
    held.leave("voice")
    assert held.live_only
    held.leave("telephone")
    assert not held.live_only

"""Whatever text comes: references that lead nowhere else, and sentences that can be spoken."""

import os
import socket
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from fuzzing import assert_words, fuzz
from hypothesis import example
from hypothesis import strategies as st

from spoken_intents.audio import SUFFIXES
from spoken_intents.errors import AudioReferenceError, ConfigError
from spoken_intents.reading import LONGEST_SENTENCE, read_out, sentences, without_markup
from spoken_intents.speech import SpeechSettings, make_speech
from spoken_intents.utterances import HandOff, LiveUtterance, is_audio_reference, resolve

pytestmark = pytest.mark.filterwarnings("error")

# ---------------------------------------------------------------- references

parts = st.sampled_from(
    ["audio", "Audio", "..", ".", "", "a.wav", "out.wav", "link.wav", "linked", "loop", "fifo.wav", "socket.wav", "deep", "b.flac",
     "secret.wav", "~", "C:", "CON.wav", "a.wav.", "a.wav ", "a.WAV", "live", "x" * 300, "\0", "\n", "\\", "%2e%2e", "．．", "dev", "proc"]
)  # fmt: skip
reference = (
    st.lists(parts | st.text(max_size=5), max_size=6).map("/".join)
    | st.tuples(st.lists(parts, max_size=4).map("/".join), st.sampled_from(SUFFIXES)).map("".join)
    | st.text(max_size=50)
    | st.integers(1, 60).map(lambda count: "../" * count + "etc/a.wav")
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips inside and outside of ``audio``, links between them, and what would block whoever opens it."""
    root = tmp_path_factory.mktemp("references") / "project"
    (root / "audio" / "deep").mkdir(parents=True)
    for file in ("audio/a.wav", "audio/deep/b.flac", "out.wav", "../secret.wav"):
        (root / file).write_bytes(b"clip")
    (root / "audio/link.wav").symlink_to(root.parent / "secret.wav")
    (root / "audio/linked").symlink_to(root.parent)
    (root / "audio/loop").symlink_to("loop")
    (root / "inside").symlink_to("audio")
    os.mkfifo(root / "audio/fifo.wav")
    with socket.socket(socket.AF_UNIX) as there:
        before = Path.cwd()
        os.chdir(root / "audio")  # the path of a socket is short
        there.bind("socket.wav")
        os.chdir(before)
    return root


@fuzz(share=1, reference=reference)
@example(reference="audio/\udc80.wav")
def test_a_reference_leads_into_its_directories_or_nowhere(project: Path, reference: str) -> None:
    try:
        found = resolve(reference, ["audio"], project)
    except AudioReferenceError as error:
        return assert_words(error, 1000)  # with where the project lies
    assert is_audio_reference(reference)
    assert found in (project / "audio/a.wav", project / "audio/deep/b.flac") and found.read_bytes() == b"clip"


@fuzz(some=reference | st.none() | st.integers() | st.binary(max_size=10) | st.lists(st.text(), max_size=3))
def test_what_is_a_reference(some: Any) -> None:
    if is_audio_reference(some):
        assert (
            isinstance(some, str) and some.lower().endswith(SUFFIXES) and len(some.split("/")) > 1 and "" not in some.split("/")
        )
        assert not set("\\\n\r\0") & set(some)


@fuzz(capacity=st.integers(1, 5), acts=st.lists(st.tuples(st.sampled_from(["put", "take", "discard"]), st.integers(0, 9))))
def test_a_live_utterance_is_taken_once(capacity: int, acts: Any) -> None:
    there, held, put = HandOff(capacity), {}, []
    for act, which in acts:
        if act == "put":
            utterance = LiveUtterance(None, None)  # type: ignore[arg-type]
            put.append(there.put(utterance))
            assert is_audio_reference(put[-1]) and put[-1] not in held
            held[put[-1]] = utterance
            if len(held) > capacity:
                del held[next(iter(held))]
        else:
            name = put[which % len(put)] if put else f"live/{which}.wav"
            if act == "discard":
                there.discard(name)
                held.pop(name, None)
            elif name in held and name == put[-1]:  # every earlier one is another turn's
                assert there.take(name) is held.pop(name)
            else:
                with pytest.raises(AudioReferenceError, match="no such live utterance"):
                    there.take(name)
        assert len(there) == len(held)


# ---------------------------------------------------------------- reading aloud

bits = st.sampled_from(
    ["£", "$1,234.50", "€ 5", "GBP 1.00", "¥", "2024-02-30", "٢٠٢٤-٠١-٠١", "GB29 NWBK 6016 1331 9268 19", "12345", "1,000", ".", ",",
     "*", "**", "_", "__", "`", "```", "~~", "[", "](", ")", "<b>", "<", "> ", "# ", "https://a.b/c?d", "\n", "\t", "\u200d", "😀",
     "\0", "\ud800", "!", "?", "…", '"', " ", "a", "Ab.", "x" * 401, "١٢٣", "½", "²", "<speak>", "[[", "&lt;"]
)  # fmt: skip
prose = st.lists(bits | st.text(st.characters(), max_size=10), max_size=30).map("".join)


@fuzz(text=prose, language=st.sampled_from(["en", "en-gb", "EN", "de", ""]) | st.text(max_size=4))
def test_any_text_is_read_in_short_plain_sentences(text: str, language: str) -> None:
    found = sentences(text, language)
    for sentence in found:
        assert 0 < len(sentence) <= LONGEST_SENTENCE and sentence == sentence.strip()
        assert not {"Cc", "Cf", "Cs", "Co"} & set(map(unicodedata.category, sentence))  # for an engine to stumble over
        assert any(map(str.isalnum, sentence)) or len("".join(found)) > LONGEST_SENTENCE
        sentence.encode()
    assert sum(map(len, found)) <= 20 * len(text) + 20
    assert not set("<>") & set(without_markup("<b>" + text.replace("<", "").replace(">", "") + "</b>"))


@fuzz(text=prose)
def test_reading_out_grows_no_more_than_words_for_figures_need(text: str) -> None:
    assert len(read_out(text)) <= 20 * len(text) + 20


@pytest.mark.parametrize(
    "bit", ["*a ", "`", "`a ", "[", "[](", "1", "1,", "1.", "£1", "£1,111", "A1", "GB29 AAAA ", "<", "# ", ". ", "a"]
)
def test_long_texts_are_read_without_looking_back_and_back(bit: str) -> None:
    """What takes a time that grows with the square of the length would not end here."""
    sentences(bit * (200_000 // len(bit)))


# ---------------------------------------------------------------- engines

dotted = st.sampled_from(
    ["", ".", "..", "..a", "a.", "a..b", ".a", "os.", "os.nothing", "no_such.Engine", "x\0.y", "\ud800.y", "espeak "]
)


@fuzz(
    share=0.2,
    speech=dotted | st.text("ab.\0é ", max_size=8).filter(lambda name: name not in ("auto", "espeak")),
    voice=st.text(max_size=10),
)
def test_an_engine_that_is_none_is_refused(speech: str, voice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_speech(SpeechSettings(speech=speech, voice=voice))
    assert str(caught.value).startswith("speech")


@fuzz(
    share=0.2, speech=st.sampled_from(["espeak", "piper"]), voice=st.text(st.characters()) | st.sampled_from(["x" * 5000, "a\0b"])
)
def test_a_voice_that_is_none_is_refused(speech: str, voice: str) -> None:
    try:
        make_speech(SpeechSettings(speech=speech, voice=voice))
    except ConfigError as error:
        assert str(error).startswith(("voice", "speech"))

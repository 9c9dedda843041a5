"""The command, run as a user runs it; and scripts/talk.py, which says how."""

import asyncio
import csv
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List, Tuple
from unittest import mock

import numpy as np
import pytest
import soundfile
import talk
import yaml
from aiohttp import web
from conftest import INTENTS
from rich.text import Text
from sanic import Sanic
from test_access import TOKEN
from test_client import FAILED, NON_SPEECH, STARTED, Handler, by_audio, heard, refusing, serving, spoken, turn
from test_limits import EAR, QUICK, rasa
from test_session import LoudVad

import in_process
from assistant import BIN, PROJECT, Assistant
from spoken_intents import client as client_module
from spoken_intents import microphone, segmenter
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.cli import _State, app, shown
from spoken_intents.errors import ConfigError, DataError, DivergedError, TrainingError
from spoken_intents.features import FrontEnd
from spoken_intents.recognizer import FORMAT
from spoken_intents.seal import sealed
from spoken_intents_training import finetune
from spoken_intents_training.checkpoints import CHECKPOINTS, REMOVING
from spoken_intents_training.dataset import read_clips
from spoken_intents_training.loop import COMPLETE, last_checkpoint
from spoken_intents_training.recipe import load_recipe
from spoken_intents_training.sources import files_fingerprint


def command(*arguments: object, cwd: Path = PROJECT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "spoken-intents"), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def called(*arguments: object) -> int:
    """The exit code of the command, run in this process: for what ends before anything slow is needed."""
    before, sys.argv = sys.argv, ["spoken-intents", *map(str, arguments)]
    try:
        app()
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    return 0


def called_beside(handler: Handler, *arguments: object) -> int:
    """`called`, with the URL of a server that plays a script."""

    async def run() -> int:
        async with serving(handler) as url:
            return await asyncio.get_running_loop().run_in_executor(None, called, *arguments, "--url", url)

    return asyncio.run(asyncio.wait_for(run(), 30))


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def model(spoken_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained by the command from a CSV, two intents, one epoch."""
    folder = tmp_path_factory.mktemp("cli")
    rows: List[List[str]] = [["path", "intent", "split"]]
    for intent in INTENTS[:2]:
        for number in range(1, 13):
            rows.append([str(spoken_project / f"audio/{intent}/{number}.ogg"), intent, "test" if number > 10 else "train"])
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    done = command(
        "train",
        folder / "data.csv",
        "--out",
        folder / "model",
        "--base-model",
        "whisper-mini",
        "--recipe",
        "default",
        "--epochs",
        1,
    )
    assert done.returncode == 0, done.stderr
    assert "held-out clips right" in words(done.stdout)
    return folder / "model"


def test_train_writes_the_whole_artefact(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == {
        *("model.json", "model.onnx", "model.fp32.onnx", "encoder.safetensors", "README.md", "training.png")
    }
    described = json.loads((model / "model.json").read_text())
    assert described["labels"] == ["goodbye", "greet", "__non_speech__"]
    assert described["data"]["clips"] == {"goodbye": 10, "greet": 10}, "rows marked test are left out"
    assert described["recipe"]["epochs"] == 1
    assert described["parity"]["n"] > 0
    assert described["parity"]["fp32_max_difference"] < 1e-3
    assert (model / "model.onnx").stat().st_size < (model / "model.fp32.onnx").stat().st_size / 2


def test_evaluate_says_when_it_is_shown_what_was_learnt(model: Path) -> None:
    learnt = len(json.loads((model / "model.json").read_text())["data"]["learnt"])
    for split, said in (("train", f"The model learnt from {learnt} of these"), ("test", "")):
        done = command("evaluate", "--model", model, "--data", model.parent / "data.csv", "--split", split)
        assert done.returncode == 0
        assert said in words(done.stdout) if said else "learnt from" not in words(done.stdout)


def test_a_complete_model_is_not_taken_for_the_end_of_another_training(model: Path) -> None:
    arguments = ("train", model.parent / "data.csv", "--out", model, "--resume")
    done = command(*arguments, "--base-model", "whisper-mini", "--epochs", "1")
    assert done.returncode == 0 and "is complete: there is nothing to resume" in words(done.stdout)
    done = command(*arguments, "--base-model", "openai/whisper-base.en")
    assert done.returncode == 1
    assert "holds a complete model, made with another base model and another recipe: there is nothing to resume" in words(
        done.stderr
    )


def test_evaluate_counts_only_the_split(model: Path, tmp_path: Path) -> None:
    done = command(
        "evaluate", "--model", model, "--data", model.parent / "data.csv", "--split", "test", "--json", tmp_path / "out.json"
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["n"] == 4
    assert 0 <= figures["macro_f1"] <= 1
    assert f"{figures['accuracy']:.1%}" in done.stdout


def test_evaluate_takes_nlu_files(model: Path, spoken_project: Path, tmp_path: Path) -> None:
    spoken = yaml.safe_load((spoken_project / "data/spoken.yml").read_text())
    spoken["nlu"] = [block for block in spoken["nlu"] if block["intent"] in INTENTS[:2]]
    (tmp_path / "known.yml").write_text(yaml.safe_dump(spoken))
    done = command("evaluate", "--model", model, "--data", tmp_path / "known.yml", cwd=spoken_project)
    assert done.returncode == 0, done.stderr
    assert "60 clips" in done.stdout


def test_evaluate_names_intents_that_the_model_does_not_know(model: Path, spoken_project: Path) -> None:
    done = command("evaluate", "--model", model, "--data", spoken_project / "data/spoken.yml")
    assert done.returncode == 1
    assert "The model knows nothing of affirm (30 clip(s)), deny (30 clip(s))." in words(done.stderr)


def test_classify_prints_a_ranking(model: Path) -> None:
    done = command("classify", "--model", model, PROJECT / "audio/train/greet/0010.ogg")
    assert done.returncode == 0, done.stderr
    assert "greet" in done.stdout
    assert "%" in done.stdout


def test_talk_says_files_and_prints_answers(server: Assistant) -> None:
    done = command("talk", "--url", server.voice, PROJECT / "audio/train/greet/0010.ogg", PROJECT / "audio/demo/noise.ogg")
    assert done.returncode == 0, done.stderr
    assert "heard greet" in done.stdout
    assert "Bot: Hey! How are you?" in done.stdout
    assert "no turn" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "nothing.yml", "--out", "x"], "nothing.yml: no such file"),
        (["train", "domain.yml", "--out", "x"], "lists no clip"),
        (
            ["train", "data/nlu_spoken.yml", "--out", "x", "--recipe", "best"],
            "neither a recipe's name (default, reference, reference-short)",
        ),
        (["train", "data/nlu_spoken.yml", "--out", "x", "--base-model", "no/such/model"], "cannot be loaded"),
        (["train", "data/nlu_spoken.yml", "--out", "x", "--epochs", "0"], "epochs takes 1 to 1000"),
        (["classify", "--model", "actions", "audio/demo/balance.ogg"], "actions is not a model"),
        (["talk"], "Name recordings to say, or --mic"),
        (["talk", "domain.yml"], "cannot be read as audio"),
    ],
)
def test_errors_say_what_to_do(arguments: List[str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = command(*arguments)
    assert done.returncode == 1
    assert reason in words(done.stderr)
    assert "Traceback" not in done.stderr


def test_help_teaches() -> None:
    assert "talk to a Rasa assistant" in command("--help").stdout
    for name in ("train", "evaluate", "classify", "talk"):
        assert "Usage: spoken-intents " + name in command(name, "--help").stdout


# ------------------------------------------------------------------ refused before anything slow begins


@pytest.mark.parametrize("below", ["", "below/it"])
def test_train_wants_a_directory(below: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "taken").write_text("")
    assert called("train", tmp_path / "no_such_data.csv", "--out", tmp_path / "taken" / below) == 1
    assert f"{tmp_path}/taken is no directory that can be written to" in words(capsys.readouterr().err)


def test_train_wants_a_directory_for_tensorboard(buzzes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "taken").write_text("")
    arguments = ("--base-model", "any", "--out", tmp_path / "out", "--tensorboard", tmp_path / "taken")
    assert called("train", buzzes, *arguments) == 1
    assert f"--tensorboard {tmp_path}/taken: {tmp_path}/taken is no directory" in words(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ a training that is refused or fails leaves nothing in the way


@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize(
    ("rows", "base_model", "reason"),
    [
        (["low0.wav,low", "high1.wav,high"], "bert", "is a bert model; a Whisper one is needed"),
        (["low0.wav,low", "high1.wav,high"], "none", "cannot be loaded"),
        (["low0.wav,low", "broken.wav,high"], "tiny", "1 clip(s) cannot be used"),
        (["low0.wav,low", "low2.wav,low"], "tiny", "at least two are needed"),
    ],
)
def test_what_is_refused_leaves_nothing(
    rows: List[str], base_model: str, reason: str, was_there: bool, tiny_base: str, buzzes: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "broken.wav").write_text("no audio")
    lines = [line if line.startswith("broken") else f"{buzzes.parent}/{line}" for line in rows]
    (tmp_path / "clips.csv").write_text("\n".join(["path,intent", *lines]))
    if was_there:
        (tmp_path / "out").mkdir()
    base = tiny_base if base_model == "tiny" else tmp_path / base_model
    assert called("train", tmp_path / "clips.csv", "--out", tmp_path / "out", "--base-model", base) == 1
    assert reason in words(capsys.readouterr().err)
    assert (tmp_path / "out").exists() == was_there
    assert not was_there or not list((tmp_path / "out").iterdir())


def on_a_full_disk() -> None:
    raise TrainingError("The model could not be written.") from OSError(28, "No space left on device")


def diverging() -> None:
    raise DivergedError("The loss became nan at step 9. Nothing was written. A lower learning_rate usually mends it.")


def refusing_a_clip() -> None:
    raise DataError("1 clip(s) cannot be used")


def interrupted_by_the_user() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "stays"), [(on_a_full_disk, True), (diverging, False), (refusing_a_clip, True), (interrupted_by_the_user, True)]
)
def test_checkpoints_stay_where_they_can_be_gone_on_from(
    end: Callable[[], None], stays: bool, buzzes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun_with = []

    def train(*arguments: Any, checkpoints: Path, **named: Any) -> None:
        begun_with.append(arguments[2].epochs)
        (checkpoints / "checkpoint-8").mkdir(exist_ok=True)
        (checkpoints / "checkpoint-8" / COMPLETE).touch()
        end()

    monkeypatch.setattr(finetune, "train", train)
    arguments = ("train", buzzes, "--out", tmp_path / "out", "--base-model", "any")
    assert called(*arguments) != 0
    assert bool(last_checkpoint(tmp_path / "out" / CHECKPOINTS)) == (tmp_path / "out").exists() == stays
    called(*arguments, "--epochs", 7)  # what a user would try after a loss that is no number: another recipe
    assert begun_with[1:] == ([] if stays else [7])


def test_what_is_left_of_a_complete_models_checkpoints_is_removed(
    buzzes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made = {"base_model": "any", "recipe": asdict(load_recipe("default"))}
    made["data"] = {"fingerprint": files_fingerprint(clip.path for clip in read_clips(buzzes))}
    described = {"format": FORMAT, "labels": ["high", "low"], "temperature": 1.0, "front_end": asdict(FrontEnd()), **made}
    described["parity"] = {"int8_margin_error": 0.1}
    (tmp_path / "model.json").write_text(json.dumps(sealed(described, [])))
    (tmp_path / REMOVING / "checkpoint-8").mkdir(parents=True)
    assert called("train", buzzes, "--out", tmp_path, "--base-model", "any", "--resume") == 0
    assert "is complete: there is nothing to resume" in words(capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


@pytest.mark.parametrize("name", ["missing/out.json", "."])
def test_evaluate_wants_a_file_it_can_write(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("--model", tmp_path / "no_such_model", "--data", tmp_path / "no_such_data.csv", "--json", tmp_path / name)
    assert called("evaluate", *arguments) == 1
    assert f"--json {tmp_path / name}: takes a file's name in a directory that is there" in words(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "models/[a]"), "Error: models/[a]: Permission denied."),
        (OSError("No space left"), "Error: No space left"),
    ],
)
def test_the_systems_errors_are_one_line(
    error: OSError, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("spoken_intents.cli.Recognizer", fail)
    assert called("classify", "--model", tmp_path, "clip.ogg") == 1
    assert capsys.readouterr().err == line + "\n"


# ------------------------------------------------------------------ talk, to a server that plays a script


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(client_module, "SETTLE_S", 0.3)
    soundfile.write(tmp_path / "said.wav", np.full(SAMPLE_RATE // 2, 0.5), SAMPLE_RATE)  # 25 packets
    return tmp_path / "said.wav"


def test_talk_prints_the_answers_of_every_turn(clip: Path, capsys: pytest.CaptureFixture) -> None:
    script = {
        2: [STARTED, NON_SPEECH],
        5: [STARTED, heard("greet"), *turn("Hello [you]")],
        15: [STARTED, heard("balance"), FAILED, turn("")[-1]],
        24: [STARTED],
        40: [heard("goodbye"), *turn("Bye")],
    }
    assert called_beside(by_audio(script), "talk", clip) == 0
    out = words(capsys.readouterr().out)
    assert out.endswith(
        "heard greet 90% Bot: Hello [you] heard balance 90% Error: This turn could not be answered (KeyError). "
        "heard goodbye 90% Bot: Bye"
    )


def test_talk_calls_again_when_its_server_ends(clip: Path, capsys: pytest.CaptureFixture) -> None:
    """What was being said is said again, in the same conversation."""
    answers, senders = by_audio({5: [STARTED, heard("greet"), *turn("Hello")]}), []

    async def handler(websocket: web.WebSocketResponse) -> None:
        senders.append((await websocket.receive_json())["sender"])
        if len(senders) > 1:
            return await answers(websocket)
        for _ in range(10):
            await websocket.receive()
        await websocket.send_json({"error": {"code": "going_down", "message": "Call again."}})
        await websocket.close(code=1012)

    assert called_beside(handler, "talk", clip) == 0
    assert words(capsys.readouterr().out).endswith("The server is gone: calling again. heard greet 90% Bot: Hello")
    assert len(senders) == 2 and senders[0] == senders[1]


def test_talk_says_that_nothing_was_heard(clip: Path, capsys: pytest.CaptureFixture) -> None:
    assert called_beside(by_audio({5: [STARTED], 10: [NON_SPEECH]}), "talk", clip) == 0
    assert "no turn: nothing was taken for speech" in words(capsys.readouterr().out)


def test_the_commands_take_the_token_from_a_variable(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()  # rather than capsys, whose streams Sanic's log would keep
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)

    async def main() -> List[int]:
        channel = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN))
        async with in_process.serving(channel, rasa=rasa, ear=EAR) as app:
            url, codes = f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket", []
            for token, names in ((TOKEN, ["talk"]), ("wrong", ["talk", "load"]), ("", ["talk", "load"])):
                monkeypatch.setenv("SPOKEN_INTENTS_TOKEN", token)
                for name in names:
                    with redirect_stdout(out), redirect_stderr(err):
                        codes.append(await asyncio.to_thread(called, name, clip, "--url", url))
            return codes

    assert in_process.run(main()) == [0, 1, 1, 1, 1]
    advice = "Name a valid one in the variable SPOKEN_INTENTS_TOKEN (or as --token, or VoiceClient's token)."
    wrong, missing = f"Error: The token is not valid. {advice}", f"Error: This server takes calls with a token only. {advice}"
    assert [line for line in err.getvalue().splitlines() if line.startswith("Error")] == [wrong, wrong, missing, missing]
    assert TOKEN not in out.getvalue() + err.getvalue()


def test_talk_says_why_it_was_refused(clip: Path, capsys: pytest.CaptureFixture) -> None:
    assert called_beside(refusing, "talk", clip) == 1
    captured = capsys.readouterr()
    assert captured.err == "Error: The loaded Rasa model hears nothing.\n"
    assert "Error" not in captured.out


class Microphone:
    """sounddevice.InputStream, recording as soon as it is open."""

    def __init__(self, rate: int, count: int, channels: int, dtype: str, callback: Callable[..., None]) -> None:
        self._record = lambda: callback(np.full((count, channels), 0.5, dtype), count, None, None)

    def __enter__(self) -> None:
        for _ in range(50):
            self._record()

    def __exit__(self, *error: Any) -> None:
        pass


class Loudspeaker:
    """sounddevice.OutputStream, which plays only when it is asked to."""

    blocks: List[np.ndarray]

    def __init__(self, rate: int, count: int, channels: int, dtype: str, callback: Callable[..., None]) -> None:
        self._fill, self._shape = callback, (count, channels)

    def __enter__(self) -> None:
        Loudspeaker.blocks = []
        Loudspeaker.opened = self

    def __exit__(self, *error: Any) -> None:
        pass

    def play(self) -> np.ndarray:
        block = np.full(self._shape, np.nan, dtype=np.float32)
        self._fill(block, len(block), None, None)
        return block[:, 0]


def test_the_loudspeaker_plays_in_order_without_gaps() -> None:
    """On a scripted sound card: blocks of 320 samples, from pieces of any length."""

    async def main() -> None:
        played: List[str] = []
        with microphone.Loudspeaker(SimpleNamespace(OutputStream=Loudspeaker)) as loudspeaker:
            card = Loudspeaker.opened
            assert not card.play().any() and not loudspeaker.playing
            line = np.arange(1, 1001, dtype=np.float32)
            for piece, name in ((line[:100], "a"), (line[100:650], "b"), (line[650:], "c")):
                loudspeaker.play(piece)
                loudspeaker.then(lambda name=name: played.append(name))
            heard, told = [], []
            for _ in range(4):
                heard.append(card.play())
                await asyncio.sleep(0)
                told.append("".join(played))
            np.testing.assert_array_equal(np.concatenate(heard), np.pad(line, (0, 280)))
            assert told == ["a", "a", "ab", "abc"] and not loudspeaker.playing
            loudspeaker.play(line)
            loudspeaker.then(lambda: played.append("never"))
            card.play()
            loudspeaker.clear()
            assert not card.play().any()
            await asyncio.sleep(0)
            assert played == ["a", "b", "c"]

    asyncio.run(main())


def test_state_and_level_are_shown_in_one_line() -> None:
    state = _State()
    quiet, loud = np.full(320, 1e-4, dtype=np.float32), np.full(320, 0.3, dtype=np.float32)
    lines = [state.line(quiet, False)]
    for message in ({"trace_event": "user_speaking_start"}, {"trace_event": "user_speaking_end"}, {"trace_event": "transcript"}):
        state.follow(message)
        lines.append(state.line(loud, False))
    state.follow({"marker": "1", "final": True})
    lines += [state.line(quiet, True), state.line(quiet, False)]
    words = ["listening", "you speak", "heard", "thinking", "the bot speaks", "listening"]
    assert [Text.from_markup(line).plain.split("▮")[-1].strip() for line in lines] == words
    assert [line.count("▮") for line in lines] == [0, 20, 20, 20, 0, 0]


def test_the_microphone_keeps_no_more_than_ten_seconds() -> None:
    async def main() -> None:
        heard = microphone.Microphone(SimpleNamespace(InputStream=Microphone, PortAudioError=RuntimeError))
        for number in range(microphone.MOST_BLOCKS + 3):
            heard._keep(np.full(320, number))
        assert (await heard.block())[0] == 3

    asyncio.run(main())


def test_a_device_that_cannot_be_opened_is_told() -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Device unavailable")

    async def main() -> None:
        for kind in (microphone.Microphone, microphone.Loudspeaker):
            with pytest.raises(ConfigError, match="The sound device cannot be opened: Device unavailable"):
                kind(SimpleNamespace(InputStream=broken, OutputStream=broken, PortAudioError=RuntimeError))

    asyncio.run(main())


def plug_in(monkeypatch: pytest.MonkeyPatch, check: Callable[..., None] = lambda **settings: None) -> None:
    module = SimpleNamespace(
        InputStream=Microphone,
        OutputStream=Loudspeaker,
        check_input_settings=check,
        check_output_settings=lambda **settings: None,
        PortAudioError=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def test_the_microphone_is_heard_and_answers_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    plug_in(monkeypatch)
    levels: List[Tuple[int, int]] = []

    async def handler(websocket: web.WebSocketResponse) -> None:
        assert (await websocket.receive_json())["sample_rate"] == SAMPLE_RATE
        for _ in range(50):
            pcm = np.frombuffer(await websocket.receive_bytes(), "<i2")
            levels.append((pcm.min(), pcm.max()))
        for message in [STARTED, heard("greet"), *turn("Hello")]:
            await websocket.send_json(message)
        await websocket.close()

    assert called_beside(handler, "talk", "--mic") == 1
    captured = capsys.readouterr()
    assert set(levels) == {(16384, 16384)}
    assert "heard greet 90% Bot: Hello" in words(captured.out)
    assert captured.err == "Error: The server hung up.\n"


def test_the_bot_is_heard_interrupted_and_hangs_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    plug_in(monkeypatch)
    marks: List[str] = []

    async def told(websocket: web.WebSocketResponse) -> None:
        async for received in websocket:
            if received.type is web.WSMsgType.TEXT and "marker" in received.json():
                marks.append(received.json()["marker"])
                return

    async def handler(websocket: web.WebSocketResponse) -> None:
        await websocket.send_json(spoken(np.full(320, 0.25)))
        await websocket.send_json({"marker": "first", "final": True})
        await websocket.send_json({"interruptPlayback": True})
        await websocket.send_json(spoken(np.full(320, 0.5)))
        await websocket.send_json({"marker": "second", "final": True})
        queue = Loudspeaker.opened._fill.__self__._queue
        while not (queue and not callable(queue[0]) and queue[0].max() > 0.4):  # what was interrupted is dropped
            await asyncio.sleep(0.001)
        playing = asyncio.create_task(told(websocket))
        while not playing.done():
            card.append(Loudspeaker.opened.play())
            await asyncio.sleep(0.001)
        await websocket.send_json({"hangup": True})
        await websocket.close()

    card: List[np.ndarray] = []
    assert called_beside(handler, "talk", "--mic") == 0
    assert marks == ["second"] and capsys.readouterr().err == ""
    played = np.concatenate(card)
    np.testing.assert_allclose(played[played != 0], 0.5, atol=1e-3)


def test_the_microphone_calls_again_when_its_server_dies(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    plug_in(monkeypatch)
    senders: List[str] = []

    async def handler(websocket: web.WebSocketResponse) -> None:
        senders.append((await websocket.receive_json())["sender"])
        if len(senders) == 1:
            assert (await websocket.receive()).type is web.WSMsgType.BINARY
            return websocket._req.transport.abort()
        for message in [*turn("Hello again"), {"hangup": True}]:
            await websocket.send_json(message)
        async for _ in websocket:  # aiohttp closes without what it has sent where audio still comes
            pass

    assert called_beside(handler, "talk", "--mic") == 0
    assert "The server is gone: calling again. Bot: Hello again" in words(capsys.readouterr().out)
    assert len(senders) == 2 and senders[0] == senders[1]


def test_the_microphone_is_told_why_it_was_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    plug_in(monkeypatch)
    assert called_beside(refusing, "talk", "--mic") == 1
    assert capsys.readouterr().err == "Error: The loaded Rasa model hears nothing.\n"


def test_no_microphone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def check(**settings: Any) -> None:
        raise RuntimeError("Error querying device -1")

    plug_in(monkeypatch, check)
    assert called("talk", "--mic") == 1
    assert "No microphone can be used: Error querying device -1" in words(capsys.readouterr().err)
    plug_in(monkeypatch)
    sys.modules["sounddevice"].check_output_settings = check
    assert called("talk", "--mic") == 1
    assert "No loudspeaker can be used: Error querying device -1" in words(capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert called("talk", "--mic") == 1
    assert "needs the extra: pip install 'rasa-spoken-intents[mic]'" in words(capsys.readouterr().err)


def test_a_bots_words_are_printed_as_they_are() -> None:
    message = {
        "response": "[red]10[/] \\[b] [1]",
        "buttons": [{"title": "[b]Yes[/b]"}, {"title": "No"}],
        "image": "http://[::1]/x.png",
        "custom": {"a": ["[i]"]},
    }
    assert [Text.from_markup(line).plain for line in shown(message)] == [
        "[red]10[/] \\[b] [1]",
        "[[b]Yes[/b]]   [No]",
        "(picture) http://[::1]/x.png",
        '{"a": ["[i]"]}',
    ]


# ------------------------------------------------------------------ scripts/talk.py


def test_the_talk_script_says_that_training_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail() -> None:
        raise subprocess.CalledProcessError(3, ["rasa", "train"])

    monkeypatch.setattr(talk, "train", fail)
    monkeypatch.setattr(talk.signal, "signal", lambda *_: None)  # pytest keeps its own
    assert talk.main() == 1
    assert capsys.readouterr().out == "rasa train failed (3); see above.\n"


def test_the_talk_script_ends_with_its_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    polls = iter([True, True, False])
    stub = mock.MagicMock()
    stub.__enter__.return_value = SimpleNamespace(
        http="http://x", voice="ws://x", log=Path("log.txt"), log_tail=lambda: "[the last line]", alive=lambda: next(polls)
    )
    monkeypatch.setattr(talk, "train", lambda: None)
    monkeypatch.setattr(talk, "Assistant", lambda port: stub)
    monkeypatch.setattr(talk.signal, "signal", lambda *_: None)
    monkeypatch.setattr(talk.time, "sleep", lambda seconds: None)
    assert talk.main() == 1
    assert words(capsys.readouterr().out).endswith("The assistant ended by itself. Its last lines: [the last line]")
    assert list(polls) == []


def test_the_talk_script_says_why_the_assistant_did_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(port: int) -> None:
        raise RuntimeError("A server ended with 1: [log]")

    monkeypatch.setattr(talk, "train", lambda: None)
    monkeypatch.setattr(talk, "Assistant", fail)
    monkeypatch.setattr(talk.signal, "signal", lambda *_: None)
    assert talk.main() == 1
    assert words(capsys.readouterr().out).endswith("A server ended with 1: [log]")

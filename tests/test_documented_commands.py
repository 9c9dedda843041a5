"""Every command that the documents give: its program takes it as it is written, and a test runs it, or it is said why none does."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import click
import pytest
import soundfile
import typer
from rasa.__main__ import create_argument_parser
from test_cli import called, command

from assistant import PROJECT, ROOT, Assistant
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.cli import typed

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "corpus/README.md",
    *sorted(ROOT.glob("training/spoken_intents_training/base_models/*/README.md")),
]
# Which test runs what is in no test's call: by document, or by a command's first words. Of what takes hours, a registry or several
# synthesizers, tests run the parts that they can.
RUN_BY = {
    "recognizer-server.md": "test_remote.py::test_the_commands_in_the_docs_make_what_is_asked_for",
    "scaling.md": "test_scaling.py",
    "worked-example.md": "test_worked_example.py",
    "python benchmarks/worked_example.py": "test_worked_example.py",
    "curl": "test_documented_commands.py::test_a_running_server_takes_what_is_for_it",
    "export PROMETHEUS_MULTIPROC_DIR": "test_monitoring.py::test_several_processes_count_together_and_a_killed_ones_calls_are_over",
    "spoken-intents recordings": "test_recordings.py",
    "rasa run": "conftest.py::server",
    "rasa run --logging-config-file": "test_logs.py",
    "python docs/examples/import_names.py": "test_own_parts.py::test_an_importer_of_ones_own_fills_a_project",
    "python corpus/generate.py": "test_corpus.py",
    "python -m spoken_intents_training.distill": "test_distill.py",
    "make corpus": "test_corpus.py",
    "make demo": "test_demo.py",
    "make talk": "test_cli.py",
    "make bench": "test_benchmarks.py",
    "make reproduce": "test_reproduce.py",
}
RUN_BY_NOBODY = {
    "pip install": "needs a registry that has this package; `make setup` installs it from here, for all tests",
    "apt install": "needs root",
    "ssh": "needs another computer; what it runs there is tested here",
    "docker compose": "nobody has run the containers, says docs/scaling.md; test_deploy.py reads what they are made of",
    "make setup": "makes what tests run in",
    "make lock": "needs the registry; test_supply_chain.py reads what it makes",
}


def blocks() -> Iterator[Tuple[str, str]]:
    """What is fenced as ``bash``: the document's name, the block."""
    for document in DOCUMENTS:
        for block in re.findall(r"^ *```bash\n(.*?)^ *```", document.read_text(), re.S | re.M):
            yield document.name, block


def commands(block: str) -> List[List[str]]:
    """A block's lines as words, without comments and without what is behind a pipe or a redirection."""
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        ends = [place for place, word in enumerate(words) if word in ("|", ">", "&&")]
        found.append(words[: ends[0]] if ends else words)
    return [words for words in found if words]


GIVEN = sorted({(name, tuple(words)) for name, block in blocks() for words in commands(block)})


def given(program: str) -> "pytest.MarkDecorator":
    chosen = sorted({words for _, words in GIVEN if words[0] == program})
    assert chosen
    return pytest.mark.parametrize("words", chosen, ids=" ".join)


@given("spoken-intents")
def test_ours_takes_it(words: Tuple[str, ...]) -> None:
    called, arguments, context = typer.main.get_command(typed), list(words[1:]), None
    while isinstance(called, click.Group):
        context = click.Context(called, parent=context, info_name=words[0])
        name = arguments.pop(0)
        assert name in called.commands, f"{name} is none of {', '.join(called.commands)}"
        called = called.commands[name]
    called.make_context(words[-1], arguments)  # raises, and says why


@given("rasa")
def test_rasas_takes_it(words: Tuple[str, ...]) -> None:
    create_argument_parser().parse_args(words[1:])  # ends the process, and says why


@given("make")
def test_the_makefile_has_it(words: Tuple[str, ...]) -> None:
    assert set(words[1:]) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("words", [words for _, words in GIVEN if words[0].endswith("python")], ids=" ".join)
def test_the_script_has_its_options(words: Tuple[str, ...]) -> None:
    module = words[2].replace(".", "/") + ".py" if words[1] == "-m" else ""
    (script,) = [path for path in (ROOT / words[1], ROOT / "training" / module) if path.is_file()]
    options = {word for word in words[2:] if word.startswith("--")}
    source = script.read_text()
    known = {
        *re.findall(r'"(--[a-z-]+)"', source),
        *(f"--{name}" for name in re.findall(r"^    (\w+): .* = typer\.Option", source, re.M)),
    }
    assert options <= known


def test_every_command_is_run_by_a_test() -> None:
    tests = {file.name: file.read_text() for file in (ROOT / "tests").glob("*.py")}
    calls = "\n".join(text for name, text in tests.items() if name != Path(__file__).name)
    unknown = []
    for document, words in GIVEN:
        said = " ".join(words).replace(".venv/bin/", "")
        named = [place for start, place in RUN_BY.items() if said.startswith(start) or document == start]
        for place in named:
            file, _, test = place.partition("::")
            assert re.search(rf"^def {test}" if test else "^def test_", tests[file], re.M), place
        if not named and not any(said.startswith(start) for start in RUN_BY_NOBODY) and not re.search(call_of(words), calls):
            unknown.append(f"{document}: {said}")
    assert unknown == [], "no test runs these: write one, or name it in RUN_BY"


def call_of(words: Tuple[str, ...]) -> str:
    """A pattern of the call by which tests run a command of ours or of Rasa's: of its verb, and what belongs to that."""
    verb = [words[1], *words[2:3]] if words[1] in ("import", "data", "test") else [words[1]]
    return r",\s*".join(f'"{word}"' for word in verb)


# ------------------------------------------------------------------ some, as they are written


def spoken(intents: Dict[str, str], folder: Path, clips: int) -> None:
    """Bundled clips of intents, in folders of other names."""
    for intent, name in intents.items():
        (folder / name).mkdir(parents=True)
        for clip in sorted((PROJECT / f"audio/train/{intent}").glob("*.ogg"))[:clips]:
            shutil.copy(clip, folder / name)


def test_a_researcher_gets_from_clips_to_figures(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    spoken({"affirm": "affirm", "deny": "deny"}, Path("recordings"), 12)
    shutil.copy(PROJECT / "audio/demo/yes.ogg", "question.wav")
    page = dict(re.findall(r"^## (.*?)$.*?```bash\n(.*?)```", (ROOT / "docs/researcher.md").read_text(), re.S | re.M))
    done = []
    for words in commands(page["From clips to figures"]):
        quick = [tiny_base if word == "whisper-mini" else word for word in words[1:]]
        less = {"train": ["--epochs", "1"], "cross-validate": ["--epochs", "1", "--folds", "2"]}.get(words[1], [])
        assert called(*quick, *less) == 0, (words, capsys.readouterr())
        done.append(words[1])
    assert done == ["import", "check", "train", "evaluate", "cross-validate", "classify"]
    assert "affirm" in capsys.readouterr().out
    assert Path("my_model/model.onnx").stat().st_size > 0 < Path("report.html").stat().st_size


def test_a_running_server_takes_what_is_for_it(server: Assistant, tmp_path: Path) -> None:
    clip = read_audio(PROJECT / "audio/test/greet/0000.ogg", 30)
    for name in ("hello.wav", "recording.wav"):
        soundfile.write(tmp_path / name, clip, SAMPLE_RATE)
    curls = [words for _, words in GIVEN if words[0] == "curl"]
    assert len(curls) >= 4
    if shutil.which("curl"):
        for words in curls:
            there = [word.replace("http://127.0.0.1:5005", server.http) for word in words]
            done = subprocess.run([*there, "--fail", "--silent", "--show-error"], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0 and done.stdout, (words, done.stderr)
    talks = {words for _, words in GIVEN if words[:3] == ("spoken-intents", "talk", "hello.wav")}
    assert talks
    for words in talks:
        done = command(*words[1:], "--url", server.voice, cwd=tmp_path)
        assert done.returncode == 0 and "Bot:" in done.stdout, done.stdout + done.stderr

"""The worked example of docs/worked-example.md: a new voice is misheard, its calls are corrected, and the bot learns it.

    python benchmarks/worked_example.py            # every command of that page; figures in results/worked_example.json
    python benchmarks/worked_example.py bot BOT    # the bot it begins with, the new voice's calls, and what is tested with

All of it takes 10 minutes on two idle cores, most of them three trainings.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import soundfile
import soxr
import typer
import yaml
from bench import HERE, PROJECT, console, save
from rasa.cli import scaffold

sys.path.insert(0, str(HERE.parent / "scripts"))
from assistant import BIN, QUIET, Assistant
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.speech import EspeakEngine

app = typer.Typer(add_completion=False, help=__doc__)
DOCUMENT = HERE.parent / "docs/worked-example.md"
SENTENCES = HERE.parent / "corpus/sentences"
INTENTS = ("greet", "goodbye", "affirm", "deny")  # of `rasa init`, for which there are clips
OLD_VOICES = ("en-us", "en-gb+f3", "en-029+m5", "en-gb-scotland+klatt", "en-us+Annie", "en-gb-x-rp+john")  # some that are learnt
NEW_VOICE, SLOWER = "en-us+whisper", 0.65  # whispers, slowly and deep: what espeak says, played at so much of its speed
CALLS = 5  # of each intent
PIPELINE = """
assistant_id: bot
recipe: default.v1
language: en
pipeline:
  - name: spoken_intents.nlu.SpokenMessages
  - name: WhitespaceTokenizer
  - name: CountVectorsFeaturizer
  - name: LogisticRegressionClassifier
  - name: spoken_intents.nlu.SpokenIntentClassifier
    base_model: whisper-mini
    epochs: 2
    recipe: {pooling: attention}
  - name: FallbackClassifier
    threshold: 0.5
policies:
  - name: MemoizationPolicy
  - name: RulePolicy
"""
CREDENTIALS = """
spoken_intents.channels.voice.VoiceInput:
  recordings: recordings
"""
Said = Tuple[str, str]  # intent and sentence


# ---------------------------------------------------------------- the bot


@app.command()
def bot(project: Path) -> None:
    """Makes the bot: `rasa init`'s, which hears four intents in the bundled voices, and what is said to it."""
    scaffold.create_initial_project(str(project))
    (project / "config.yml").write_text(PIPELINE)
    (project / "credentials.yml").write_text(CREDENTIALS)
    bundled = list(_bundled(project))
    listed = {
        intent: [row["path"] for row in bundled if (row["intent"], row["split"]) == (intent, "train")] for intent in INTENTS
    }
    blocks = [{"intent": intent, "examples": "".join(f"- {path}\n" for path in paths)} for intent, paths in listed.items()]
    (project / "data/nlu_spoken.yml").write_text(yaml.safe_dump({"version": "3.1", "nlu": blocks}))
    apart = _sentences("test")
    known = list(_spoken(project, "old_voices", apart, OLD_VOICES))
    _write_csv(project / "old_voices.csv", [*(row for row in bundled if row["split"] == "test"), *known])
    _write_csv(project / "new_voice.csv", list(_spoken(project, "new_voice", apart, [NEW_VOICE])))
    (project / "calls").mkdir()
    longer = [said for said in _sentences("train") if len(said[1].split()) >= 3]
    each = {intent: [said for said in longer if said[0] == intent] for intent in INTENTS}
    turns = [each[intent][turn * len(each[intent]) // CALLS] for turn in range(CALLS) for intent in INTENTS]
    for number, (intent, sentence) in enumerate(turns):
        soundfile.write(project / f"calls/{number + 1:02}-{intent}.wav", _speech(sentence, NEW_VOICE), SAMPLE_RATE)


def _sentences(part: str) -> List[Said]:
    """The corpus' sentences of a part, intent by intent. No sentence is in two parts."""
    said = []
    for intent in INTENTS:
        parts = dict(re.findall(r"^# (\w+)\n(.*?)(?=^# |\Z)", (SENTENCES / f"{intent}.txt").read_text(), re.S | re.M))
        said += [(intent, line.strip()) for line in parts[part].splitlines() if line.strip()]
    return said


def _bundled(project: Path) -> Iterator[Dict[str, str]]:
    """Copies the bundled clips of the intents into the project; the manifest's row of each."""
    with (PROJECT / "audio/manifest.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            if row["intent"] in INTENTS and row["split"]:
                to = project / "audio" / row["path"]
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / "audio" / row["path"], to)
                yield {**row, "path": f"audio/{row['path']}"}


def _spoken(project: Path, name: str, said: Sequence[Said], voices: Sequence[str]) -> Iterator[Dict[str, str]]:
    """Has sentences spoken, the voices in turn; a row for each clip."""
    for number, (intent, sentence) in enumerate(said):
        path, voice = f"audio/{name}/{intent}/{number:02}.flac", voices[number % len(voices)]
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(project / path, _speech(sentence, voice), SAMPLE_RATE)
        yield {"path": path, "intent": intent, "speaker": voice, "transcript": sentence, "split": "test"}


def _speech(sentence: str, voice: str) -> np.ndarray:
    engine = EspeakEngine(voice)
    played_at = engine.sample_rate * (SLOWER if voice == NEW_VOICE else 1)
    samples = soxr.resample(engine.synthesize(sentence), played_at, SAMPLE_RATE)
    return np.pad(0.5 * samples / np.abs(samples).max(), SAMPLE_RATE // 4)


def _write_csv(file: Path, rows: List[Dict[str, str]]) -> None:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, ["path", "intent", "speaker", "transcript", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


# ---------------------------------------------------------------- the page's commands


def commands() -> List[str]:
    """What the page has people type, in order."""
    blocks = re.findall(r"^```bash\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def run(folder: Path) -> Dict[str, Any]:
    """Runs all of them in `folder`, with what people do at the server and on the page in between; returns the comparisons."""
    figures: Dict[str, Any] = {}
    server: Optional[Assistant] = None
    where = folder
    try:
        for command in commands():
            console.print(f"$ {command}", style="bold")
            words = shlex.split(command)
            if words[0] == "cd":
                where = where / words[1]
            elif words[:2] == ["rasa", "run"]:
                server = Assistant(where, actions=False)
                server.__enter__()
            elif words == ["spoken-intents", "review"]:
                _review(where)
            else:
                if words[:2] == ["spoken-intents", "talk"]:
                    assert server is not None
                    words[2:] = ["--url", server.voice, *words[2:-1], *sorted(str(clip) for clip in where.glob(words[-1]))]
                if words[:2] == ["spoken-intents", "compare"]:
                    words += ["--json", "compared.json"]
                _call(words, where)
                if words[:2] == ["spoken-intents", "talk"]:
                    assert server is not None
                    server.__exit__()  # which has everything written
                if words[:2] == ["spoken-intents", "compare"]:
                    figures[command] = json.loads((where / "compared.json").read_text())
    finally:
        if server is not None:
            server.__exit__()
    return figures


def _call(words: List[str], where: Path) -> None:
    program = [sys.executable] if words[0] == "python" else [str(BIN / words[0])]
    path = [str(HERE.parent / words[1])] if words[0] == "python" else [words[1]]
    with (where / "log.txt").open("ab") as log:
        done = subprocess.run(
            [*program, *path, *words[2:]], cwd=where, env={**os.environ, **QUIET}, stdout=subprocess.PIPE, stderr=log, text=True
        )
    if words[0] != "rasa":
        console.print(done.stdout, markup=False)
    if done.returncode:
        raise RuntimeError(
            f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}\n{(where / 'log.txt').read_text()[-2000:]}"
        )


def _review(project: Path) -> None:
    """What the reviewer does on the page: says of every turn what it was. The calls' names tell."""
    from spoken_intents_training.review import Review

    calls = sorted((project / "calls").glob("*.wav"))
    review = Review(project, project / "recordings", "the worked example")
    turns = sorted(review.turns(), key=lambda turn: turn["time"])
    if len(turns) != len(calls):
        raise RuntimeError(f"{len(calls)} things were said, and {len(turns)} recorded.")
    for call, turn in zip(calls, turns):
        said = call.stem.partition("-")[2]
        told = review.label(turn["id"], said, None)
        console.print(f"{call.stem}: heard {turn['heard']} {turn['confidence']:.0%}. {told['said']}", markup=False)


@app.callback(invoke_without_command=True)
def everything(context: typer.Context) -> None:
    """Runs the page's commands and writes their figures."""
    if context.invoked_subcommand is None:
        with tempfile.TemporaryDirectory() as folder:
            figures = run(Path(folder))
        save("worked_example", {"commands": commands(), "compared": {command: brief(told) for command, told in figures.items()}})


def brief(figures: Dict[str, Any]) -> Dict[str, Any]:
    """What the page tells of a comparison."""
    kept = ("verdict", "n", "heard_right", "answered_right", "intents", "learnt", "noises", "worse", "warnings")
    sides = {name: {key: figures[name][key] for key in ("outcomes", "noises_stopped", "learnt_right")} for name in ("old", "new")}
    return {**{name: figures[name] for name in kept}, **sides}


if __name__ == "__main__":
    app()

"""What synthetic speech teaches of real people, and what a few of their recordings add: python benchmarks/synthetic.py coffee

Nobody's recording is heard before the test but those that a row counts. Sentences are made of words that a bot's author would
type: the values of the set's slots, and ways to order that are written here. What `voices` calls ``espeak`` is what the extra
espeak brings; ``several`` takes turns with flite and festival, which a user installs (Debian: flite, festival).
"""

import csv
import json
import tempfile
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import soundfile
import typer
from bench import HERE, PROJECT
from trials import Results, conditions, draw, identity, test_part, train_part, without

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.dataset import Clip, read_clips
from spoken_intents_training.finetune import train
from spoken_intents_training.recipe import Recipe, load_recipe
from spoken_intents_training.synthesize import plan, speak
from spoken_intents_training.voices import Family, espeak_family

SHARED = HERE.parent.parent / "shared"
app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)
SPEECH = typer.Option(SHARED / "speech", help="Folder of the sets.")
BASE = typer.Option(str(SHARED / "models/whisper-tiny.en-encoder"), help="Base model.")
SENTENCES = typer.Option(40, help="Sentences an intent.")
PER_SENTENCE = typer.Option(1, help="Voices a sentence.")

FLITE = Family(
    "flite -voice {voice} --setf duration_stretch={rate} -t {text} -o {wav}",
    ["slt", "awb", "rms", "kal16"],
    {"rate": (0.85, 1.3)},
)
FESTIVAL = Family(
    'text2wave -eval (voice_{voice}) -eval "(Parameter.set \'Duration_Stretch {rate})" -o {wav}',
    ["kal_diphone", "ked_diphone"],
    {"rate": (0.85, 1.3)},
)
VOICES = {"none": [], "espeak": [espeak_family()], "several": [espeak_family(), FLITE, FESTIVAL]}

OPENINGS = (
    "{}", "one", "just {}", "order {}", "can i get {}", "can i have {}", "could i have {}", "could i get {}", "may i have {}",
    "can you make me {}", "could you make me {}", "i want {}", "i need {}", "i would like {}", "i'd like {}", "i'd like to order {}",
    "i'd like to have {}", "i'll have {}", "i'll take {}", "let me get {}", "let me have {}", "give me {}", "get me {}", "make me {}",
    "make {}", "brew me {}", "prepare {}", "please make me {}", "please give me {}", "i'm gonna get {}", "i feel like {}",
    "how about {}", "do you have {}", "hi can i have {}", "hey could i get {}", "hello i would like {}", "um can i get {}",
    "uh i'd like {}", "okay i'll have {}", "so i want {}", "we would like {}", "my friend wants {}", "for me {}", "start {}",
)  # fmt: skip
CLOSINGS = ("", "", "", "", "", "please", "please", "thanks", "thank you", "to go", "for here")
JOINTS = (" ", " ", ", ", " and ")
# Of a slot: how often it is said, how often of that before the drink, and how it is said behind it.
SAID: Dict[str, Tuple[float, float, Sequence[str]]] = {
    "size": (0.4, 0.8, ("make it {}", "in {}", "{} size", "{} cup")),
    "roast": (0.45, 0.75, ("with {}", "{}", "make it {}", "with a {}")),
    "numberOfShots": (0.45, 0.6, ("with a {}", "with {}", "{}", "and a {}")),
    "milkAmount": (0.4, 0.0, ("with {}", "with {}", "and {}", "{}")),
    "sugarAmount": (0.45, 0.0, ("with {}", "with {}", "and {}", "{}")),
}


def order(drink: str, values: Dict[str, Sequence[str]], rng: np.random.Generator) -> str:
    """A way to order `drink`, such as ``can i get a large iced mocha with soy milk please``."""

    def one(choices: Sequence[str]) -> str:
        return choices[rng.integers(len(choices))]

    before, behind = [], []
    for slot, (how_often, in_front, ways) in SAID.items():
        if rng.random() < how_often:
            value = one(values[slot])
            if rng.random() < in_front:
                before.append(value)
            else:
                behind.append(one(ways).format(value))
    rng.shuffle(before)
    rng.shuffle(behind)
    wanted = " ".join([*before, drink])
    opening = one(OPENINGS)
    article = "an" if wanted[0] in "aeiou" else "a"
    sentence = opening.format(f"{article} {wanted}") if "{}" in opening else f"{opening} {wanted}"
    return " ".join(filter(None, (sentence, one(JOINTS).join(behind), one(CLOSINGS))))


def orders(manifest: Path, an_intent: int, seed: int) -> List[Tuple[str, str]]:
    """So many sentences for each drink of the manifest's train part, each once: (intent, sentence)."""
    values, drinks = defaultdict(set), {}
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train":
                slots = json.loads(row["slots"])
                drinks[row["intent"]] = slots.pop("coffeeDrink")
                for slot, value in slots.items():
                    values[slot].add(value.strip())
    choices = {slot: sorted(found) for slot, found in values.items()}
    sentences: Dict[Tuple[str, str], None] = {}
    for place, (intent, drink) in enumerate(sorted(drinks.items())):
        rng = np.random.default_rng((seed, place))
        while len(sentences) < an_intent * (place + 1):
            sentences[intent, order(drink, choices, rng)] = None
    return [*sentences]


def spoken(sentences: Sequence[Tuple[str, str]], voices: str, per_sentence: int, folder: Path) -> Iterator[Clip]:
    """The sentences as clips in `folder`, by as many voices each."""
    wanted = plan(sentences, VOICES[voices], per_sentence)
    for number, (utterance, samples) in enumerate(speak(wanted)):
        path = folder / f"{number}.flac"
        soundfile.write(path, samples, SAMPLE_RATE)
        yield Clip(path, utterance.intent, path.name, utterance.voice.speaker, utterance.words)


def heard(learnt: Sequence[Clip], base_model: str, recipe: Recipe, tested: Dict[str, Sequence[Clip]]) -> Dict[str, Any]:
    """Trains on `learnt`; the accuracy on each of `tested`, in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        described = train(learnt, base_model, recipe, Path(folder))
        recognizer = Recognizer(Path(folder), "fp32")
        figures = {name: conditions(recognizer, clips, Path(), noisy=False)["clean"] for name, clips in tested.items()}
    return {
        **figures,
        "clips": len(learnt),
        "tested": {name: len(clips) for name, clips in tested.items()},
        "pooling": described["pooling"],
        "seconds": described["metrics"]["seconds"],
        "recipe": identity(recipe),
    }


@app.command()
def coffee(
    speech: Path = SPEECH,
    base_model: str = BASE,
    voices: str = typer.Option("espeak,several,none", help=f"Of {', '.join(VOICES)}, between commas."),
    points: str = typer.Option("0,5,10,20", help="Real clips of each intent, drawn from the train part."),
    draws: int = typer.Option(3, help="Random choices of those clips, of the sentences and of the recipe's seed."),
    sentences: int = SENTENCES,
    per_sentence: int = PER_SENTENCE,
) -> None:
    """Coffee orders: accuracy on the real test part, and without a real clip also on every real one."""
    recipe = load_recipe("default")
    task = {"base_model": Path(base_model).name, "sentences": sentences, "per_sentence": per_sentence}
    results, manifest = Results("synthetic_coffee", [recipe], **task), speech / "coffee/manifest.csv"
    few = Results("few_coffee", [recipe], look_up=True, base_model=Path(base_model).name)
    learnt, tested = train_part(speech, "coffee"), test_part(speech, "coffee")
    for seed, name in product(range(draws), voices.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            clips: List[Clip] = []
            for point in points.split(","):
                key = {"set": "coffee", "voices": name, "an_intent": point, "draw": seed}
                if (name == "none" and point == "0") or results.find(**key, recipe=identity(recipe)):
                    continue
                same = few.find(set="coffee", an_intent=point, draw=seed, method="default") if name == "none" else None
                if same:  # a test part is heard once for a recipe
                    results.add(key, without(same, "set", "an_intent", "draw", "method"))
                    continue
                if name != "none" and not clips:
                    clips = [*spoken(orders(manifest, sentences, seed), name, per_sentence, Path(folder))]
                real = draw(learnt, int(point), seed)
                parts = {"clean": tested} if real else {"clean": tested, "all": learnt + tested}
                results.add(key, heard([*clips, *real], base_model, load_recipe("default", seed=seed), parts))


@app.command()
def bundled(
    base_model: str = BASE,
    draws: int = typer.Option(3, help="Choices of the sentences and of the recipe's seed."),
    sentences: int = SENTENCES,
    per_sentence: int = PER_SENTENCE,
) -> None:
    """The banking assistant's typed train sentences, spoken by espeak, tested on flite's clips of others."""
    recipe = load_recipe("default")
    task = {"base_model": Path(base_model).name, "sentences": sentences, "per_sentence": per_sentence}
    results = Results("synthetic_bundled", [recipe], **task)
    clips = read_clips(PROJECT / "audio/manifest.csv")
    typed = [*{(clip.intent, clip.transcript): clip for clip in clips if clip.split == "train"}.values()]
    tested = [clip for clip in clips if clip.split == "test"]
    for seed in range(draws):
        key = {"set": "bundled", "voices": "espeak", "draw": seed}
        if results.find(**key, recipe=identity(recipe)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            drawn = [(clip.intent, clip.transcript) for clip in draw(typed, sentences, seed)]
            learnt = [*spoken(drawn, "espeak", per_sentence, Path(folder))]
            results.add(key, heard(learnt, base_model, load_recipe("default", seed=seed), {"clean": tested}))


if __name__ == "__main__":
    app()

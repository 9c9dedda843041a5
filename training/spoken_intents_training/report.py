"""An evaluation, or a comparison, as one HTML page that needs nothing else and no network: figures, pictures, clips to hear."""

import io
from base64 import b64encode
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np
import soundfile
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents_training.compare import CHANGES, OUTCOMES, Comparison
from spoken_intents_training.dataset import Clip, read_samples
from spoken_intents_training.evaluate import NO_SPEECH, Evaluation
from spoken_intents_training.plots import evaluation_plots, png, recall_changes, training_curves

TEMPLATES = Path(__file__).parent
MOST_CLIPS = 60
MOST_BYTES = 15_000_000  # of embedded audio
CSS_DPI = 96
PICTURES = {  # for those who do not see them
    "confusion": "Matrix of clips by intent said and intent heard; the diagonal was heard right.",
    "intents": "Bars of F1 by intent, the worst on top, with recall and its interval; the table has the figures.",
    "reliability": "Accuracy by confidence against the diagonal of perfect calibration, and a histogram of confidence.",
    "conditions": "Accuracy as noise grows, and over the telephone; the table has the figures.",
    "training": "Loss and learning rate over the training.",
    "changes": "Share heard right by intent, before and after; the table has the figures.",
}


def report(evaluation: Evaluation, description: Mapping[str, Any], command: str = "") -> str:
    """The page.

    Args:
        description: What ``model.json`` says of the model. Of its content what is there is told.
        command: What made this, to make it again.

    Raises:
        AudioError: A clip that was heard wrong is no longer there.
    """
    figures = evaluation.as_json()
    drawn = evaluation_plots(figures)
    if description.get("log"):
        drawn["training"] = training_curves(description["log"])
    worst = evaluation.worst(int((~evaluation.right).sum()))
    clips = list(_playable([(evaluation.clips[index], evaluation.told(index)) for index in worst]))
    return _page(
        "report.html",
        drawn,
        figures=figures,
        wrong=clips,
        left_out=len(figures["wrong"]) - len(clips),
        facts=_facts(description),
        command=command,
    )


def comparison_report(comparison: Comparison, command: str = "") -> str:
    """The page of two models: what became better and worse, by intent and clip by clip, what became worse first.

    Args:
        command: What made this, to make it again.

    Raises:
        AudioError: A clip is no longer there.
    """
    figures = comparison.as_json()
    changed = [(change, index) for change in CHANGES[:3] for index in comparison.places(change)]
    clips = list(
        _playable([(comparison.clips[index], {**comparison.told(index), "change": change}) for change, index in changed])
    )
    return _page(
        "compare.html",
        {"changes": recall_changes(figures["intents"])},
        figures=figures,
        clips={change: [clip for clip in clips if clip["change"] == change] for change in CHANGES[:3]},
        outcomes=OUTCOMES,
        command=command,
    )


def _page(template: str, drawn: Mapping[str, Any], **values: Any) -> str:
    # trim: indentation of the template's tags is no indentation of the page.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=lambda share: f"{share:.1%}", points=lambda share: f"{100 * share:+.1f}")
    return environment.get_template(template).render(
        **values,
        pictures={name: _picture(name, figure) for name, figure in drawn.items()},
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        no_speech=NO_SPEECH,
    )


def _playable(told: Sequence[Tuple[Clip, Dict[str, Any]]]) -> Iterator[Dict[str, Any]]:
    """The first of them, each with its audio, until there are many or the page is as large as it may be."""
    left = MOST_BYTES
    for clip, words in told[:MOST_CLIPS]:
        audio = _embedded(_ogg(read_samples(clip)), "audio/ogg")
        left -= len(audio)
        if left < 0:
            return
        yield {**words, "audio": audio}


def _ogg(samples: np.ndarray) -> bytes:
    """16 kHz Ogg Vorbis, about 6 kB a second. (Opus is half as large, but takes ten times as long.)"""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS") as ogg:
        for start in range(0, len(samples), SAMPLE_RATE):  # libsndfile copies what it gets to the stack
            ogg.write(np.clip(samples[start : start + SAMPLE_RATE], -1, 1))
    return file.getvalue()


def _embedded(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode('ascii')}"


def _picture(name: str, figure: Any) -> Dict[str, Any]:
    width, height = (round(inches * CSS_DPI) for inches in figure.get_size_inches())
    return {"data": _embedded(png(figure), "image/png"), "width": width, "height": height, "alt": PICTURES[name]}


def _facts(description: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """What is known of the model, to be read."""
    facts = [("Base model", description["base_model"])] if "base_model" in description else []
    clips = description.get("data", {}).get("clips", {})
    if clips:
        least, most = min(clips.values()), max(clips.values())
        facts.append(("Learnt from", f"{sum(clips.values()):,} clips of {len(clips)} intents, {least} to {most} each"))
    folds = [fold["accuracy"] for fold in description.get("folds", ())]
    if folds:
        grouped = description.get("grouped_by", "none")
        facts.append(("Cross-validation", f"{len(folds)} folds by {grouped}, {min(folds):.1%} to {max(folds):.1%} heard right"))
    metrics = description.get("metrics", {})
    if metrics.get("held_out"):
        facts.append(("When it was trained", f"{metrics['accuracy']:.1%} of {metrics['n']} held-out clips heard right"))
    if "temperature" in description:
        facts.append(("Softmax temperature", f"{description['temperature']:.3g}"))
    if description.get("recipe"):
        facts.append(
            ("Recipe", ", ".join(f"{name} {'none' if value is None else value}" for name, value in description["recipe"].items()))
        )
    return facts

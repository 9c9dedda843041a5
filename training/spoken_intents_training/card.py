"""The model card that is written beside every model: what it is, what it learnt from, how well, what to know."""

from pathlib import Path
from typing import Any, Dict, List, Optional

from spoken_intents.recognizer import NON_SPEECH
from spoken_intents_training.dataset import FEW

CARD, CURVES = "README.md", "training.png"  # in the model's directory

SHOWN = (
    "context",
    "epochs",
    "min_steps",
    "batch_size",
    "learning_rate",
    "head_learning_rate",
    "pooling",
    "frozen_layers",
)


def model_card(described: Dict[str, Any]) -> str:
    """Markdown, from the content of ``model.json``."""
    data, metrics, parity = described["data"], described["metrics"], described["parity"]
    intents = data["clips"]
    lines = [
        "# Spoken intent model",
        "",
        f"Hears {len(intents)} intents in speech, without transcribing it. For `spoken_intents.nlu.SpokenIntentClassifier`, "
        "the voice channel and `spoken-intents classify`.",
        "",
        *_table(
            {
                "base model": _plain_name(described["base_model"]),
                "learnt from": f"{sum(intents.values())} clips, {min(intents.values())} to {max(intents.values())} of an intent",
                "held out": f"{data['held_out']} clips{of_whom(data)}",
                "data fingerprint": data["fingerprint"],
                "softmax temperature": f"{described['temperature']:.2f}",
                "noise told from speech": "yes" if NON_SPEECH in described["labels"] else "no",
                "made in": f"{metrics['seconds']:.0f} s",
            }
        ),
        "",
        "## How well it hears",
        "",
        _accuracy(metrics),
        "",
        threshold_advice(described),
        "",
        _turn_end(described.get("turn_end")),
        "",
        f"On {parity['n']} clips the ONNX graph's logits differ from PyTorch's by at most {parity['fp32_max_difference']:.1e}, and "
        f"int8 hears the same as fp32 in {parity['int8_same_first_label']}; fp32 hears {parity['fp32_right']} right, int8 "
        f"{parity['int8_right']}. Where int8 is served, clips of which it cannot tell the two best labels apart (logits closer "
        f"than {parity['int8_margin_error']:.2f}) are heard again in fp32. `spoken-intents evaluate` measures more: confusions, "
        "calibration, noise, telephone.",
        "",
        "## Intents",
        "",
        "| intent | clips |",
        "|---|---|",
        *(f"| {intent} | {count} |" for intent, count in intents.items()),
        "",
        "## Recipe",
        "",
        *_table({**{name: described["recipe"][name] for name in SHOWN}, "pooling": described["pooling"]}),
        "",
        "The whole recipe is in `model.json`.",
        "",
        f"![Loss and learning rate over the training]({CURVES})",
        "",
        "## What it cannot do",
        "",
        "- Transcribe, or hear an intent that is not in the table. What fits none should end below the threshold of Rasa's "
        "`FallbackClassifier`.",
        "- Promise anything about callers unlike those it learnt from: other accents, ages, languages or lines. Measure on them.",
        "",
    ]
    return "\n".join(lines)


def _turn_end(turn_end: Optional[Dict[str, Any]]) -> str:
    if turn_end is None:
        return "It does not say when a caller is done: turns end by a fixed silence."
    measured = turn_end["held_out"]
    return (
        f"It says when a caller is done: of {measured['n']} held-out copies, whole or cut between words, it tells the whole ones with "
        f"an AUROC of {measured['auroc']:.2f} (calibration error {measured['calibration_error']:.2f})."
    )


def threshold_advice(described: Dict[str, Any]) -> str:
    """What to set as the threshold of Rasa's ``FallbackClassifier``, or why the model cannot tell; a sentence."""
    if described["suggested_threshold"] is not None:
        return f"Suggested threshold for FallbackClassifier: {described['suggested_threshold']:.2f}."
    if described["metrics"]["held_out"]:
        return "No threshold for FallbackClassifier is suggested: no held-out clip was heard right."
    why = (
        f"there are fewer than {FEW} of an intent on average" if described["recipe"]["held_out_share"] else "held_out_share is 0"
    )
    return f"The confidence is not calibrated, and no threshold for FallbackClassifier suggested: no clip was held out, as {why}."


def of_whom(data: Dict[str, Any]) -> str:
    """Of whom the held-out clips are, as the end of a clause; empty where none are held out."""
    if data["held_out_by"] == "speaker" and data["without_speaker"]:
        return f", of other speakers (clips that name none, each counted as another one: {data['without_speaker']})"
    return {"speaker": ", of other speakers", "transcript": ", of other transcripts", "none": ", at random", "": ""}[
        data["held_out_by"]
    ]


def _plain_name(base_model: str) -> str:
    """Without the directories above a local one, which say nothing elsewhere."""
    directory = Path(base_model)
    return directory.resolve().name if directory.is_dir() else base_model


def _table(rows: Dict[str, Any]) -> List[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {'none' if value is None else value} |" for name, value in rows.items())]


def _accuracy(metrics: Dict[str, Any]) -> str:
    if not metrics["held_out"]:
        return "Not measured: every clip was learnt from. `spoken-intents evaluate` measures it on other clips."
    return (
        f"{metrics['right']} of {metrics['n']} clips that were held out of training were heard right ({metrics['accuracy']:.1%})"
        + (
            f"; {metrics['noises_rejected']} of {metrics['noises']} held-out noises were told from speech."
            if metrics["noises"]
            else "."
        )
    )

"""Writes the model artefact: ONNX fp32 and int8, their parity with torch, ``model.json``, weights for later."""

import json
import logging
import os
import shutil
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Sequence, Tuple, cast
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, onnx_quantizer, quantize_dynamic
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors import SafetensorError  # type: ignore[attr-defined]
from safetensors.torch import load_file, save_file
from transformers import WhisperForAudioClassification

from spoken_intents.errors import ModelError, TrainingError
from spoken_intents.features import MAX_FRAMES, FrontEnd
from spoken_intents.recognizer import (
    COMPLETE,
    ENCODER,
    FORMAT,
    FP32,
    FP32_DATA,
    INT8,
    MODEL_JSON,
    NON_SPEECH,
    read_model_json,
)
from spoken_intents.seal import check_file, sealed
from spoken_intents_training.heads import HEADS
from spoken_intents_training.modeling import ShortContextClassifier, encode
from spoken_intents_training.sources import first_line, same_base_model

PROTOBUF_BYTES = 2**31 - 2**20  # what a graph in one file can hold
FP32_MAY_DIFFER = 0.01  # of the logits' spread; rounding makes a thousandth of that
EXPORTING = ".exporting-"  # a directory beside the artefact, while it is made
Files = Dict[str, bytes]  # contents by name


class _Graph(torch.nn.Module):
    """One utterance, no mask: what serving runs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_features: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        turn_end = getattr(self.model, "turn_end", None)
        if turn_end is None:
            return (self.model(input_features).logits,)
        hidden, mask = encode(self.model.encoder, input_features)
        return self.model.classify(hidden, mask), turn_end(hidden)


def export(
    model: WhisperForAudioClassification,
    out: Path,
    description: Dict[str, Any],
    parity_on: Sequence[Tuple[np.ndarray, int]],
    explain: Callable[[Dict[str, Any]], Files] = lambda described: {},
) -> Dict[str, Any]:
    """Writes the artefact to `out` and returns its ``model.json``.

    Args:
        description: What ``model.json`` says beside format, front end and parity.
        parity_on: Log-mel, shape (n_mels, frames), and label of clips on which ONNX is compared with torch.
        explain: Files for people that belong to the artefact, from its ``model.json``.

    Raises:
        TrainingError: It cannot be exported or written; an artefact that lay there is as it was.
    """
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(f"{EXPORTING}*"):  # by a process that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=out, prefix=EXPORTING) as folder:
        made = Path(folder)
        try:
            described = _write(model.eval(), made, description, parity_on)
            for name, content in explain(described).items():
                (made / name).write_bytes(content)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"The model could not be written to {out} ({error}). Nothing there was changed.") from error
        except Exception as error:  # torch's, onnx's and onnxruntime's have no root of their own
            raise TrainingError(
                f"The model could not be exported to ONNX ({first_line(error)}). Nothing in {out} was changed. After `spoken-intents "
                "train`, checkpoints stay, and --resume tries the export again."
            ) from error
        # A directory with a model.json is complete: the old one goes first, the new one comes last.
        (out / MODEL_JSON).unlink(missing_ok=True)
        (out / FP32_DATA).unlink(missing_ok=True)
        for file in sorted(made.iterdir(), key=lambda file: file.name == MODEL_JSON):
            os.replace(file, out / file.name)
    return described


def _write(
    model: WhisperForAudioClassification, out: Path, description: Dict[str, Any], parity_on: Sequence[Tuple[np.ndarray, int]]
) -> Dict[str, Any]:
    front_end = FrontEnd(n_mels=model.config.num_mel_bins, padded=not isinstance(model, ShortContextClassifier))
    export_onnx(model, out)
    parity = measure_parity(model, out, parity_on)
    described = {
        "format": FORMAT,
        **description,
        "front_end": asdict(front_end),
        "pooling": getattr(model.config, "pooling", "mean"),  # absent where it is not from load_base
        "parity": parity,
    }
    # Without the end-of-turn output, which is fitted anew to whatever encoder comes out of further fine-tuning.
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("turn_end.")}
    weights = {name: tensor.half().contiguous() for name, tensor in kept.items()}
    save_file(weights, out / ENCODER, metadata={"format": "pt"})
    described = sealed(described, sorted(out.iterdir()))
    (out / MODEL_JSON).write_text(json.dumps(described, indent=2) + "\n")
    return described


def export_onnx(model: WhisperForAudioClassification, out: Path) -> None:
    """Writes the fp32 and the int8 graph: input_features (1, n_mels, frames) -> logits (1, labels).

    A model with an end-of-turn output has a second one: complete (1, 1), a logit.

    Weights above `PROTOBUF_BYTES` (large) lie beside the fp32 graph, as ONNX cannot hold them.
    """
    large = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) > PROTOBUF_BYTES
    short = isinstance(model, ShortContextClassifier)
    example = torch.zeros(1, model.config.num_mel_bins, 200 if short else MAX_FRAMES)
    with tempfile.TemporaryDirectory(dir=out) as folder, warnings.catch_warnings():
        raw = Path(folder)  # of a large model, each tensor becomes a file there
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        torch.onnx.export(
            _Graph(model),
            (example,),
            str(raw / FP32),
            input_names=["input_features"],
            output_names=["logits", COMPLETE] if getattr(model, "turn_end", None) else ["logits"],
            dynamic_axes={"input_features": {2: "frames"}} if short else None,
            opset_version=20,
            dynamo=False,
        )
        if large:
            onnx.save_model(onnx.load(raw / FP32), out / FP32, save_as_external_data=True, location=FP32_DATA)
        else:
            os.replace(raw / FP32, out / FP32)
    # The quantizer's own temporaries, each as large as the model, go there too: the system's are often in memory.
    with tempfile.TemporaryDirectory(dir=out) as folder, patch.object(tempfile, "tempdir", folder):
        prepared = out / FP32 if large else Path(folder) / "prepared.onnx"
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # the quantizer logs through the root logger
        try:
            if not large:
                quant_pre_process(str(out / FP32), str(prepared), skip_symbolic_shape=True)
            with patch.object(onnx_quantizer, "save_and_reload_model_with_shape_infer", _reload_with_shapes):
                quantize_dynamic(
                    str(prepared), str(out / INT8), weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"]
                )
        finally:
            root.setLevel(level)
    _approximate_gelu(out / INT8)


def _approximate_gelu(file: Path) -> None:
    """By tanh, a third faster than the error function; it is off by 0.0005 at most, far less than rounding to int8."""
    graph = onnx.load(file)
    for node in graph.graph.node:
        if node.op_type == "Gelu":
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))
    onnx.save_model(graph, file)


def _reload_with_shapes(graph: Any) -> Any:
    """As onnxruntime's own, which copies the graph first: protobuf ends the process when that is above 2 GB."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        onnx.save_model(graph, file, save_as_external_data=True)
        return load_model_with_shape_infer(file)


def measure_parity(model: WhisperForAudioClassification, out: Path, clips: Sequence[Tuple[np.ndarray, int]]) -> Dict[str, Any]:
    """How far the graphs' logits are from torch's, and of how many clips each graph's first label is the right one.

    `int8_margin_error` is the most by which int8 moved its two best labels' logits against each other: what is closer
    together is a tie, which `Recognizer` hears again in fp32.

    Args:
        clips: Log-mel, shape (n_mels, frames), and label of each.

    Raises:
        TrainingError: The fp32 graph computes something else than the model.
    """
    sessions = {name: onnxruntime.InferenceSession(str(out / name), providers=["CPUExecutionProvider"]) for name in (FP32, INT8)}
    fp32_difference, margin_error, agree, right = 0.0, 0.0, 0, dict.fromkeys(sessions, 0)
    for spectrogram, label in clips:
        with torch.inference_mode():
            wanted = model(torch.from_numpy(spectrogram[None])).logits.numpy()
        got = {name: session.run(None, {"input_features": spectrogram[None]})[0] for name, session in sessions.items()}
        difference = float(np.abs(got[FP32] - wanted).max())
        if not difference <= FP32_MAY_DIFFER * max(1.0, float(np.ptp(wanted))):
            raise TrainingError(f"its logits are {difference:.2g} away from PyTorch's, of a spread of {np.ptp(wanted):.2g}")
        fp32_difference = max(fp32_difference, difference)
        second, first = np.argsort(got[INT8][0])[-2:]
        moved = got[INT8][0] - got[FP32][0]
        margin_error = max(margin_error, abs(float(moved[first] - moved[second])))
        agree += int(got[INT8].argmax() == got[FP32].argmax())
        for name in sessions:
            right[name] += int(got[name].argmax() == label)
    return {
        "n": len(clips),
        "fp32_max_difference": fp32_difference,
        "int8_margin_error": margin_error,
        "int8_same_first_label": agree,
        "fp32_right": right[FP32],
        "int8_right": right[INT8],
    }


def load_weights(
    model: WhisperForAudioClassification, directory: Path, labels: Sequence[str], base_model: str, pooling: str
) -> None:
    """Loads an artefact's weights, and its head, into a model of the same labels and base model.

    Raises:
        ModelError: They belong to other labels, to another base model or to another pooling, or cannot be read.
    """
    described = read_model_json(directory)
    stop = "Fine-tuning cannot go on from the previous model: "
    if (NON_SPEECH in described["labels"]) != (NON_SPEECH in labels):
        raise ModelError(
            f"{stop}non_speech_share was switched {'on' if NON_SPEECH in labels else 'off'}. Train without --finetune."
        )
    if set(described["labels"]) != set(labels):
        new, gone = sorted(set(labels) - set(described["labels"])), sorted(set(described["labels"]) - set(labels))
        changes = [f"{word} {', '.join(names)}" for word, names in (("new:", new), ("gone:", gone)) if names]
        raise ModelError(f"{stop}the intents changed ({'; '.join(changes)}). Train without --finetune.")
    if not same_base_model(str(described.get("base_model")), base_model):
        raise ModelError(
            f"{stop}it was made from base_model {described.get('base_model')!r}, not {base_model!r}. Train without --finetune."
        )
    before = described.get("pooling")
    if before not in (tuple(HEADS) if pooling == "auto" else (pooling,)):
        raise ModelError(f"{stop}its pooling is {before or 'not known'}, the recipe's {pooling}. Train without --finetune.")
    if before in HEADS:
        cast(ShortContextClassifier, model).put_head(HEADS[before](model.config.d_model, len(labels)))
    try:
        check_file(described, directory / ENCODER)
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(directory / ENCODER).items()})
    except (ModelError, OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{stop}{first_line(error)} Train without --finetune.") from None

"""Writes the model artefact: ONNX fp32 and int8, their parity with torch, ``model.json``, weights for later."""

import json
import logging
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors import SafetensorError  # type: ignore[attr-defined]
from safetensors.torch import load_file, save_file

from spoken_intents.errors import ModelError
from spoken_intents.features import FrontEnd
from spoken_intents.recognizer import ENCODER, FORMAT, FP32, INT8, MODEL_JSON
from spoken_intents_training.modeling import ShortContextClassifier


class _Graph(torch.nn.Module):
    """One utterance, no mask: what serving runs."""

    def __init__(self, model: ShortContextClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        return self.model(input_features).logits


def export(
    model: ShortContextClassifier, out: Path, description: Dict[str, Any], parity_on: Sequence[np.ndarray]
) -> Dict[str, Any]:
    """Writes the artefact to `out` and returns its ``model.json``.

    Args:
        description: What ``model.json`` says beside format, front end and parity.
        parity_on: Log-mels, each (n_mels, frames), on which ONNX is compared with torch.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = model.eval()
    export_onnx(model, out)
    described = {
        "format": FORMAT,
        **description,
        "front_end": asdict(FrontEnd(n_mels=model.config.num_mel_bins)),
        "parity": measure_parity(model, out, parity_on),
    }
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / ENCODER, metadata={"format": "pt"})
    # Last: a directory with a model.json is complete.
    (out / MODEL_JSON).write_text(json.dumps(described, indent=2) + "\n")
    return described


def export_onnx(model: ShortContextClassifier, out: Path) -> None:
    """Writes the fp32 and the int8 graph: input_features (1, n_mels, frames) -> logits (1, labels)."""
    example = torch.zeros(1, model.config.num_mel_bins, 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        torch.onnx.export(
            _Graph(model),
            (example,),
            str(out / FP32),
            input_names=["input_features"],
            output_names=["logits"],
            dynamic_axes={"input_features": {2: "frames"}},
            opset_version=17,
            dynamo=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # the quantizer logs through the root logger
        try:
            quant_pre_process(str(out / FP32), str(prepared), skip_symbolic_shape=True)
            quantize_dynamic(
                str(prepared), str(out / INT8), weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"]
            )
        finally:
            root.setLevel(level)


def measure_parity(model: ShortContextClassifier, out: Path, spectrograms: Sequence[np.ndarray]) -> Dict[str, Any]:
    """How far the graphs' logits are from torch's, and how often int8 agrees on the first label."""
    sessions = {name: onnxruntime.InferenceSession(str(out / name), providers=["CPUExecutionProvider"]) for name in (FP32, INT8)}
    fp32_difference, agree = 0.0, 0
    for spectrogram in spectrograms:
        with torch.inference_mode():
            wanted = model(torch.from_numpy(spectrogram[None])).logits.numpy()
        got = {name: session.run(None, {"input_features": spectrogram[None]})[0] for name, session in sessions.items()}
        fp32_difference = max(fp32_difference, float(np.abs(got[FP32] - wanted).max()))
        agree += int(got[INT8].argmax() == wanted.argmax())
    return {"n": len(spectrograms), "fp32_max_difference": fp32_difference, "int8_same_first_label": agree}


def load_weights(model: ShortContextClassifier, file: Path) -> None:
    """Loads an artefact's weights into a model with the same labels.

    Raises:
        ModelError: They belong to another base model or to other labels.
    """
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"Fine-tuning cannot go on from the previous model: {str(error).splitlines()[0]} "
            "The intents or the base model changed. Train without --finetune."
        ) from None

"""The exported model: waveform -> intent ranking. ONNX Runtime and NumPy only.

Also says which recognizer is live: `SpokenIntentClassifier` registers its own under the id of the Rasa model
it came with, and a channel finds it there.
"""

import hashlib
import json
import mmap
import os
import platform
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ModelError, one_line
from spoken_intents.features import FrontEnd, log_mel
from spoken_intents.files import open_regular
from spoken_intents.remote import RemoteGraph, RemoteSettings
from spoken_intents.seal import check_description, check_file

FORMAT = 2  # of model.json
NON_SPEECH = "__non_speech__"  # the reserved label for what is not speech at all
COMPLETE = "complete"  # the end-of-turn output's name in the graphs, which some models have
MODEL_JSON, INT8, FP32, ENCODER = "model.json", "model.onnx", "model.fp32.onnx", "encoder.safetensors"
FP32_DATA = FP32 + ".data"  # the weights of a model that is too large for one ONNX file
MODEL_JSON_BYTES = 2**26  # at most; it lists every clip a model learnt from
# How a graph names a file for its weights (ONNX, TensorProto.external_data), and the only one it may name.
_LOCATION = b"location"
_BESIDE = b"\x0a\x08location\x12%c%s" % (len(FP32_DATA), FP32_DATA.encode())


@dataclass(frozen=True)
class Recognition:
    """What one utterance was heard as.

    Attributes:
        ranking: (intent, confidence) of every intent, descending; the confidences and `non_speech` sum to 1.
        non_speech: Probability that this was no speech at all; 0 from a model that did not learn it.
        model: `Recognizer.fingerprint` of the model that heard it.
        milliseconds: What classifying took.
        complete: Probability that this is all the caller wants to say; None from a model that did not learn it.
    """

    ranking: Tuple[Tuple[str, float], ...]
    non_speech: float
    model: str
    milliseconds: float
    complete: Optional[float] = None

    @property
    def intent(self) -> str:
        return self.ranking[0][0]

    @property
    def confidence(self) -> float:
        return self.ranking[0][1]

    @property
    def is_speech(self) -> bool:
        """Whether some intent is likelier than non-speech."""
        return self.confidence >= self.non_speech

    def as_rasa(self) -> List[Dict[str, Any]]:
        """The ranking as Rasa writes it."""
        return [{"name": intent, "confidence": confidence} for intent, confidence in self.ranking]


class Recognizer:
    """One loaded model artefact. Thread-safe: calls may classify at the same time.

    Args:
        directory: The artefact: ``model.json`` and the ONNX files.
        precision: ``int8``, ``fp32``, or ``auto``: where the processor adds up int8 products without saturating
            (VNNI, Arm), int8, and fp32 for the clips of which int8 cannot tell the two best labels apart; fp32
            elsewhere.
        remote: Servers that run the fp32 graph instead, as long as they can.

    Raises:
        ModelError: A file is missing or not what `model.json` says.
    """

    def __init__(self, directory: Path, precision: str = "auto", remote: Optional[RemoteSettings] = None) -> None:
        described = read_model_json(directory)
        self.description = described
        self.labels: List[str] = described["labels"]
        self.temperature: float = described["temperature"]
        self.front_end = FrontEnd(**described["front_end"])
        self.precision = ("int8" if adds_int8_exactly() else "fp32") if precision == "auto" else precision
        self.fingerprint = hashlib.sha256((Path(directory) / MODEL_JSON).read_bytes()).hexdigest()[:16]
        self._session = _load(Path(directory) / {"int8": INT8, "fp32": FP32}[self.precision], described)
        # By how much int8 may move the two best labels against each other, as it was measured at export.
        self._tie = described["parity"]["int8_margin_error"] if precision == "auto" and self.precision == "int8" else 0.0
        # Now, and not with the first tie: Rasa removes the model's files once it is loaded.
        servers = remote if remote and remote.urls else None
        self._fp32 = self._session if self.precision == "fp32" else None
        if self._fp32 is None and (self._tie or servers):
            self._fp32 = _load(Path(directory) / FP32, described)
        self.remote = self._on_servers(servers, self._fp32) if servers and self._fp32 else None

    def _on_servers(self, settings: RemoteSettings, session: onnxruntime.InferenceSession) -> RemoteGraph:
        """The fp32 graph on servers, which know it by the fingerprint of what its outputs mean."""
        probe = log_mel(known_sound(), self.front_end.n_mels, self.front_end.padded)[None]
        names = [output.name for output in session.get_outputs()]
        expected = dict(zip(names, session.run(None, {"input_features": probe})))
        return RemoteGraph(settings, f"spoken-intents-{self.fingerprint}", probe, expected)

    def logits(self, samples: np.ndarray) -> np.ndarray:
        """Logits of one utterance (float32, 16 kHz), shape (labels,).

        Raises:
            AudioError: Shorter than 20 ms or longer than 30 s.
        """
        return self._hear(samples)[0]

    def _hear(self, samples: np.ndarray) -> Tuple[np.ndarray, Optional[float]]:
        """Logits, and the probability of being complete where the model has learnt it."""
        features = log_mel(samples, self.front_end.n_mels, self.front_end.padded)[None]
        outputs = self.remote.run(features) if self.remote else None
        logits, *complete = self._run(features) if outputs is None else outputs
        return logits[0], _sigmoid(float(complete[0][0, 0])) if complete else None

    def _run(self, features: np.ndarray) -> List[np.ndarray]:
        outputs = self._session.run(None, {"input_features": features})
        second, first = np.partition(outputs[0][0], -2)[-2:]
        if self._fp32 is not None and first - second < self._tie:
            outputs = self._fp32.run(None, {"input_features": features})
        return outputs

    def classify(self, samples: np.ndarray) -> Recognition:
        """The ranking for one utterance (float32, 16 kHz).

        Raises:
            AudioError: Shorter than 20 ms or longer than 30 s.
        """
        began = time.perf_counter()
        logits, complete = self._hear(samples)
        probabilities = softmax(logits / self.temperature)
        order = np.argsort(-probabilities, kind="stable")
        ranking = tuple((self.labels[i], float(probabilities[i])) for i in order if self.labels[i] != NON_SPEECH)
        return Recognition(
            ranking=ranking,
            non_speech=float(probabilities[self.labels.index(NON_SPEECH)]) if NON_SPEECH in self.labels else 0.0,
            model=self.fingerprint,
            milliseconds=(time.perf_counter() - began) * 1000,
            complete=complete,
        )


def _load(file: Path, described: Dict[str, Any]) -> onnxruntime.InferenceSession:
    check_file(described, file)
    if _names_files(file):
        check_file(described, file.with_name(FP32_DATA))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(4, os.cpu_count() or 1)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would burn a core
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise ModelError(f"{file}: cannot be loaded ({error}). Train or export the model again.") from None
    if session.get_outputs()[0].shape[1:] != [len(described["labels"])]:
        raise ModelError(f"{file}: has another number of outputs than {MODEL_JSON} has labels. Train the model again.")
    return session


def _names_files(file: Path) -> bool:
    """Whether a graph's weights are in another file, which ONNX Runtime opens wherever it is.

    Raises:
        ModelError: It is not the one beside the graph that belongs to it.
    """
    with open_regular(file) as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        place = first = graph.find(_LOCATION)
        while place >= 0:
            start = max(0, place - _BESIDE.index(_LOCATION))
            if graph[start : start + len(_BESIDE)] != _BESIDE:
                raise ModelError(f"{file}: reads files that are not its own. Take models from people you trust, or train one.")
            place = graph.find(_LOCATION, place + 1)
    return first >= 0


def known_sound() -> np.ndarray:
    """A second of a buzz that rises, and some noise (float32, 16 kHz): what every model says something else about."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    buzz = sum(np.sin(2 * np.pi * k * (120 + 60 * time) * time) / k for k in range(1, 9))
    return (0.1 * buzz + 0.005 * np.random.default_rng(0).standard_normal(len(time))).astype(np.float32)


def _sigmoid(logit: float) -> float:
    return float(0.5 * (1 + np.tanh(0.5 * logit)))  # which does not overflow


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def read_model_json(directory: Path) -> Dict[str, Any]:
    """The checked content of an artefact's ``model.json``.

    Raises:
        ModelError: Missing, not JSON, of another format, or not what was written.
    """
    file = Path(directory) / MODEL_JSON
    try:
        with open_regular(file) as opened:
            content = opened.read(MODEL_JSON_BYTES + 1)
        described = json.loads(content) if len(content) <= MODEL_JSON_BYTES else None
    except FileNotFoundError:
        raise ModelError(f"{directory} is not a model: it has no {MODEL_JSON}. `spoken-intents train --out` makes one.") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not JSON ({error}).") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ModelError(f"{file}: of another format than {FORMAT}, the one this version reads. Train the model again.")
    labels: Any = described.get("labels")
    named = isinstance(labels, list) and all(isinstance(label, str) and label for label in labels)
    if not named or len(set(labels)) != len(labels) or len(labels) < 2:
        raise ModelError(f"{file}: 'labels' takes a list of different intents, and {NON_SPEECH} where it was learnt.")
    parity = described.get("parity")
    if not isinstance(parity, dict) or not _is_number(parity.get("int8_margin_error")):
        raise ModelError(f"{file}: 'parity' takes what was measured at export. Train the model again.")
    if not _is_number(described.get("temperature")) or described["temperature"] <= 0:
        raise ModelError(f"{file}: 'temperature' takes a number above 0.")
    try:
        front_end = FrontEnd(**described["front_end"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{file}: 'front_end' is not understood ({one_line(str(error))}). Train the model again.") from None
    if type(front_end.n_mels) is not int or not 1 <= front_end.n_mels <= 256 or type(front_end.padded) is not bool:
        raise ModelError(f"{file}: 'front_end' is not understood ({one_line(str(front_end))}). Train the model again.")
    if replace(front_end, n_mels=FrontEnd.n_mels, padded=FrontEnd.padded) != FrontEnd():
        raise ModelError(f"{file}: made for another front end ({one_line(str(front_end))}) than this version's.")
    check_description(described, file)
    return described


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1e9


def adds_int8_exactly() -> bool:
    """Whether int8 products are added without saturating: AVX-512 or AVX VNNI, or any 64-bit Arm."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


# Weak: a recognizer lives as long as the Rasa model that loaded it.
_live: "WeakValueDictionary[str, Recognizer]" = WeakValueDictionary()
_live_lock = threading.Lock()


def register(model_id: str, recognizer: Recognizer) -> None:
    """Makes `recognizer` the one of the Rasa model `model_id`."""
    with _live_lock:
        _live[model_id] = recognizer


def live(model_id: Optional[str]) -> Optional[Recognizer]:
    """The recognizer of the Rasa model `model_id`; None when that model has none or is gone."""
    with _live_lock:
        return _live.get(model_id) if model_id else None

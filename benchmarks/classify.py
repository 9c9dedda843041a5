"""Milliseconds to classify one utterance: ours, what people use instead, and what the processor's arithmetic allows.

    python benchmarks/classify.py            # 1 to 15 s, shapes of whisper-tiny.en, base.en and small.en
    python benchmarks/classify.py --peers    # also transcribing with faster-whisper, then Rasa's DIET, in an environment of its own
    python benchmarks/classify.py --quick    # 4 s and base.en; ends with 1 when ours is not even CERTAIN times faster

Every round does each contender once, in random order, on as many threads. Weights are random, which takes as much time as any.
"""

import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import onnxruntime
import torch
import transformers
import typer
from bench import console, save
from limit import fastest
from peers import Peers, PeersMissing
from rich.table import Table
from shapes import SHAPES, config_of, multiply_adds, sliced, speech_like, stock_model, write_artefact
from timing import Timed, interleaved, timed
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForAudioClassification

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.features import log_mel
from spoken_intents.recognizer import FP32, INT8, Recognizer

SECONDS = (1, 2, 4, 8, 15)
CONTENDERS = {
    "int8": "ours",
    "fp32": "ours",
    "pipeline": "Hugging Face's audio-classification pipeline, which pads to 30 s, fp32",
    "sliced": "Hugging Face's class with its window cut to the clip, fp32",
    "transcribing": "faster-whisper of the same size, int8, greedy, 12 tokens; then Rasa's DIET on the text",
}
CERTAIN = 5  # times as fast as the pipeline at 4 s, where it pads 7 times as much: less means that something is broken
PRECISIONS = ("int8", "fp32")
THREADS = os.cpu_count() or 1
PROFILED = 20  # runs


def main(
    quick: bool = typer.Option(False, help="Only 4 s and whisper-base.en, no peers."),
    peers: bool = typer.Option(
        False, help="Also transcribing with faster-whisper; makes benchmarks/.peers where that is missing."
    ),
    shapes: str = typer.Option(",".join(SHAPES), help="Between commas."),
    repeats: int = typer.Option(15, help="Rounds that count."),
) -> None:
    """Ours, int8 and fp32, against what people use instead and against the processor's limit."""
    if unknown := [name for name in shapes.split(",") if name not in SHAPES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: --shapes takes {', '.join(SHAPES)}.")
    names, lengths = (["whisper-base.en"], (4,)) if quick else (shapes.split(","), SECONDS)
    with ExitStack() as stack:
        other, left_out = None, {"transcribing": "not asked for (--peers)"}
        if peers and not quick:
            try:
                other, left_out = stack.enter_context(Peers({name: SHAPES[name] for name in names}, THREADS)), {}
            except PeersMissing as reason:
                left_out = {"transcribing": str(reason)}
        figures = measured(names, lengths, repeats, other)
    table(figures["rows"], left_out)
    profile_table(figures["profiles"])
    save("classify_quick" if quick else "classify", {**figures, "left_out": left_out})
    ratios(figures["rows"])
    slow = [row["shape"] for row in figures["rows"] if row["seconds"] == 4 and row["fp32_faster_than"]["pipeline"] < CERTAIN]
    if slow:
        console.print(f"Not even {CERTAIN} times as fast as the pipeline: {', '.join(slow)}")
        raise typer.Exit(1)


def measured(names: List[str], lengths: Tuple[float, ...], repeats: int, peers: Any = None) -> Dict[str, Any]:
    """Every figure: rows by shape and length, the matrix products that are the limit, where our time goes by operator."""
    torch.set_num_threads(THREADS)
    transformers.logging.set_verbosity_error()
    limits = {precision: fastest(precision, THREADS) for precision in PRECISIONS}
    rows: List[Dict[str, Any]] = []
    profiles: List[Dict[str, Any]] = []
    for name in names:
        config = config_of(SHAPES[name])
        with tempfile.TemporaryDirectory() as folder:
            write_artefact(config, Path(folder))
            ours = {precision: Recognizer(Path(folder), precision) for precision in PRECISIONS}
            stock = stock_model(config)
            for seconds in lengths:
                samples = speech_like(seconds)
                contenders = contend(ours, stock, samples)
                if peers is not None:
                    contenders["transcribing"] = peers.contender(name, seconds)
                contenders.update({f"{precision} matrices": product for precision, (_, product) in limits.items()})
                times = interleaved(contenders, repeats, f"{name}, {seconds} s")
                rows.append(row(name, seconds, config, times, {key: found for key, (found, _) in limits.items()}))
            samples = speech_like(4)
            profiles += [
                {
                    "shape": name,
                    "precision": precision,
                    "seconds": 4,
                    "by_operator": profile(Path(folder) / file, config, samples),
                }
                for precision, file in (("int8", INT8), ("fp32", FP32))
            ]
    versions = {module.__name__: module.__version__ for module in (transformers, np)}
    return {
        "threads": THREADS,
        "versions": {**versions, **(peers.versions if peers is not None else {})},
        "limits": {precision: found for precision, (found, _) in limits.items()},
        "rows": rows,
        "profiles": profiles,
    }


def contend(ours: Dict[str, Recognizer], stock: WhisperForAudioClassification, samples: np.ndarray) -> Dict[str, Timed]:
    """From waveform to the ranking of all labels, each its own way."""
    extract = WhisperFeatureExtractor(feature_size=stock.config.num_mel_bins)
    pipeline = transformers.pipeline("audio-classification", model=stock, feature_extractor=extract, device="cpu")
    cut = sliced(stock, len(samples))

    def stock_sliced() -> Any:
        features = extract(samples, sampling_rate=SAMPLE_RATE, padding="do_not_pad", return_tensors="pt").input_features
        with torch.inference_mode():
            return cut(features).logits.softmax(-1).sort(descending=True)

    return {
        **{name: timed(lambda recognizer=recognizer: recognizer.classify(samples)) for name, recognizer in ours.items()},
        "pipeline": timed(lambda: pipeline({"raw": samples, "sampling_rate": SAMPLE_RATE}, top_k=None)),
        "sliced": timed(stock_sliced),
    }


def row(name: str, seconds: float, config: WhisperConfig, times: Dict[str, Any], limits: Dict[str, Any]) -> Dict[str, Any]:
    """One shape and length: times, how many times ours is faster than each, and its share of what the processor can do."""
    needed = multiply_adds(config, int(seconds * SAMPLE_RATE))
    median = {contender: values["median_ms"] for contender, values in times.items()}
    allowed = {
        precision: needed * median[f"{precision} matrices"] / limits[precision]["multiply_adds"] for precision in PRECISIONS
    }
    return {
        "shape": name,
        "seconds": seconds,
        "multiply_adds": needed,
        "times": times,
        "limit_ms": allowed,
        "int8_faster_than": {other: median[other] / median["int8"] for other in CONTENDERS if other in median},
        "fp32_faster_than": {other: median[other] / median["fp32"] for other in CONTENDERS if other in median},
        "share_of_limit": {precision: allowed[precision] / median[precision] for precision in allowed},
    }


def profile(file: Path, config: WhisperConfig, samples: np.ndarray) -> Dict[str, float]:
    """Share of the graph's time that each operator takes, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        features = log_mel(samples, config.num_mel_bins)[None]
        for _ in range(PROFILED):
            session.run(None, {"input_features": features})
        events = json.loads(Path(session.end_profiling()).read_text())
    took: Dict[str, int] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = event["args"]["op_name"]
            took[operator] = took.get(operator, 0) + event["dur"]
    return {operator: took[operator] / sum(took.values()) for operator in sorted(took, key=lambda operator: -took[operator])}


def table(rows: List[Dict[str, Any]], left_out: Dict[str, str]) -> None:
    """Median milliseconds, and the 95th percentile in brackets."""
    out = Table("shape", "s", *CONTENDERS, "int8 limit", "fp32 limit", title="milliseconds, median (95 %)")
    for row in rows:
        times = [row["times"].get(name) for name in CONTENDERS]
        cells = [f"{found['median_ms']:.1f} ({found['p95_ms']:.1f})" if found else "left out" for found in times]
        limits = (f"{row['limit_ms'][precision]:.1f}" for precision in PRECISIONS)
        out.add_row(row["shape"].replace("whisper-", ""), f"{row['seconds']:g}", *cells, *limits)
    console.print(out)
    for name, meaning in CONTENDERS.items():
        console.print(f"{name}: {meaning}{f' (left out: {left_out[name]})' if name in left_out else ''}")
    console.print("limit: the encoder's multiply-adds at the rate of the fastest matrix product measured in the same rounds")


def profile_table(profiles: List[Dict[str, Any]]) -> None:
    """Where the graph's time goes."""
    for found in profiles:
        parts = ", ".join(f"{operator} {share:.0%}" for operator, share in [*found["by_operator"].items()][:7])
        console.print(f"Time by operator, {found['shape']} {found['precision']}, {found['seconds']} s: {parts}")


def ratios(rows: List[Dict[str, Any]]) -> None:
    """What it comes to at 4 s."""
    for row in rows:
        if row["seconds"] == 4:
            for precision in PRECISIONS:
                faster = row[f"{precision}_faster_than"]
                others = ", ".join(
                    f"{faster[name]:.1f} times {name}" for name in CONTENDERS if name in faster and name not in PRECISIONS
                )
                share = row["share_of_limit"][precision]
                console.print(f"{row['shape']}, 4 s: {precision} has the speed of {others}, and {share:.0%} of its limit's")


if __name__ == "__main__":
    typer.run(main)

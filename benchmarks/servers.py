"""What an inference server costs on the way: the same utterance heard here and by servers on this machine.

    OPENBLAS_NUM_THREADS=1 python benchmarks/servers.py

Servers and this process share the processor, one utterance at a time: what a server's own machine would save is not in
the figures, what the way there costs is. The model has whisper-base.en's shape and random weights. One thread for
OpenBLAS, because others spin on for 20 ms after the log-mel, which would look like the price of waiting for a server.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import typer
from bench import HERE, console, save
from prometheus_client import REGISTRY
from rich.table import Table
from transformers import WhisperConfig

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.recognizer import NON_SPEECH, Recognizer
from spoken_intents.remote import RemoteSettings
from spoken_intents_training.export import export
from spoken_intents_training.modeling import ShortContextClassifier

sys.path.append(str(HERE.parent / "scripts"))
from inference_server import InferenceServer

SHAPE = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "num_hidden_layers": 6}
app = typer.Typer(add_completion=False, help=__doc__)


def connected(model: Path, url: str, binary: bool) -> Recognizer:
    """A recognizer that asks the server at `url`, in JSON or in binary."""
    recognizer = Recognizer(model, remote=RemoteSettings(url, 10_000))
    assert recognizer.remote is not None
    while not recognizer.remote.in_use:
        time.sleep(0.05)
    (replica,) = recognizer.remote._replicas
    assert replica.takes_binary or not binary
    replica.takes_binary = binary
    return recognizer


@app.command()
def main(repeats: int = typer.Option(30)) -> None:
    """Milliseconds from samples to ranking, and of this process's processor time, for 2 and 4 s of audio."""
    rng = np.random.default_rng(0)
    rows: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        model = Path(folder)
        config = WhisperConfig(**SHAPE, num_labels=3)
        export(ShortContextClassifier(config), model, {"labels": ["a", "b", NON_SPEECH], "temperature": 1.0}, parity_on=[])
        triton = servers.enter_context(InferenceServer("triton", model))
        mlserver = servers.enter_context(InferenceServer("mlserver", model))
        recognizers = {
            "here, int8": Recognizer(model, "int8"),
            "here, fp32": Recognizer(model, "fp32"),
            "Triton, binary": connected(model, triton.url, binary=True),
            "Triton, JSON": connected(model, triton.url, binary=False),
            "MLServer, JSON": connected(model, mlserver.url, binary=False),
        }
        for seconds in (2, 4):
            samples = (0.1 * rng.standard_normal(seconds * SAMPLE_RATE)).astype(np.float32)
            times: Dict[str, List[Any]] = {name: [] for name in recognizers}
            for repeat in range(repeats + 3):
                for name, recognizer in recognizers.items():
                    before = time.process_time()
                    milliseconds = recognizer.classify(samples).milliseconds
                    if repeat >= 3:  # warm
                        times[name].append((milliseconds, 1000 * (time.process_time() - before)))
            for name, measured in times.items():
                wall, processor = np.median(measured, axis=0)
                row = {"seconds": seconds, "by": name, "median_ms": wall, "processor_ms": processor}
                rows.append({**row, "p95_ms": np.percentile([value for value, _ in measured], 95)})
        assert REGISTRY.get_sample_value("spoken_intents_recognitions_total", {"where": "local"}) is None, "a server has failed"
    here = {row["seconds"]: row["median_ms"] for row in rows if row["by"] == "here, fp32"}
    table = Table("audio", "heard by", "median, ms", "95 %", "over fp32 here", "processor time here, ms")
    for row in rows:
        row["over_fp32_here"] = row["median_ms"] / here[row["seconds"]]
        figures = (row["median_ms"], row["p95_ms"], row["over_fp32_here"], row["processor_ms"])
        table.add_row(f"{row['seconds']} s", row["by"], *(f"{figure:.1f}" for figure in figures))
    console.print(table)
    save("servers", {"repeats": repeats, "rows": rows})


if __name__ == "__main__":
    app()

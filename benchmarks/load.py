"""Many callers against one `rasa run`: what is lost, what is late, what a call costs; tables, and JSON in results/.

    python benchmarks/load.py my_folder                      # a project that benchmarks/base_shaped.py made, or makes now
    python benchmarks/load.py my_folder --rows 1,10,10b      # b: as a browser sends

The callers run on the same machine, as do the assistant's actions: what they take is not there for Rasa.
"""

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import aiohttp
import numpy as np
import psutil
import typer
from base_shaped import base_shaped
from bench import HERE, PROJECT, console, save
from rich.table import Table

from spoken_intents.load import read_recordings, run
from spoken_intents.load_report import LoadSettings, Report

sys.path.append(str(HERE.parent / "scripts"))
from assistant import Assistant

PROBE_S = 0.25  # how often the server is asked for its status: what that waits, every call waits
AIM_MS = 400  # the 95th percentile of end of turn to first message that a row is to stay under
PERCENTILES = {"median": 50, "p95": 95, "p99": 99, "max": 100}


async def measured(assistant: Assistant, settings: LoadSettings, recordings: Sequence[Tuple[str, np.ndarray]]) -> Dict[str, Any]:
    """One row: the report, and what the server took meanwhile."""
    rasa = psutil.Process(assistant.pid)
    before, calls_s = rasa.memory_info().rss, 0.0
    waits: List[float] = []
    samples: List[Tuple[float, float, int]] = []  # when, seconds of processor time, bytes

    async def probe() -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                began = time.perf_counter()
                async with http.get(f"{assistant.http}/webhooks/voice/status") as response:
                    await response.read()
                waits.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(PROBE_S)

    def progress(gone_s: float, report: Report) -> None:
        if settings.ramp_s <= gone_s <= settings.seconds:  # every caller is there
            used = rasa.cpu_times()
            samples.append((gone_s, used.user + used.system, rasa.memory_info().rss))

    probing = asyncio.create_task(probe())
    try:
        report = await run(settings, recordings, progress)
    finally:
        probing.cancel()
        with suppress(asyncio.CancelledError):
            await probing
    (began, used_before, _), (ended, used_after, _) = samples[0], samples[-1]
    calls_s = (ended - began) * settings.callers
    return {
        **report.as_json(),
        "status_ms": {name: round(float(np.percentile(waits, share)), 1) for name, share in PERCENTILES.items()},
        "cores": round((used_after - used_before) / (ended - began), 3),
        "cores_a_call": round((used_after - used_before) / calls_s, 4),
        "rss_mb": round(samples[-1][2] / 2**20),
        "mb_a_call": round((samples[-1][2] - before) / 2**20 / settings.callers, 2),
    }


def shown(rows: List[Dict[str, Any]]) -> Table:
    """A line for each row; `to message` is by the callers' clock, from the end of the turn."""
    table = Table(
        "callers",
        "said",
        "right",
        "failed",
        "rejected",
        "lost",
        "late",
        "to message, 95 %",
        "server says",
        "status, 95 %",
        "cores",
        "MB a call",
    )
    for row in rows:
        latency = row["latency_ms"]
        caller, server = (latency.get(f"{whose}_message", {}).get("p95", float("nan")) for whose in ("caller", "server"))
        table.add_row(
            f"{row['callers']} {row['messages']}",
            *(str(row["counts"][key]) for key in ("said", "right", "failed")),
            str(row["rejected"]),
            *(str(row["counts"][key]) for key in ("lost", "late")),
            f"{caller:.0f} ms{'' if row['kept_pace'] else ' *'}",
            f"{server:.0f} ms",
            f"{row['status_ms']['p95']:.0f} ms",
            f"{row['cores']:.2f}",
            f"{row['mb_a_call']:.1f}",
        )
    return table


def bends(rows: List[Dict[str, Any]]) -> str:
    """Up to where all is well: the most callers by telephone of whom nothing is lost, and the first row with trouble."""
    good, bad = [], []
    for row in (row for row in rows if row["messages"] == "telephone"):
        p95 = row["latency_ms"].get("caller_message", {}).get("p95", float("inf"))
        # What the model took for an "uh-huh" or for noise, and said so, it would with one caller, too.
        missed = row["counts"]["lost"] > row["rejected"] or row["counts"]["failed"] or row["dropped_calls"]
        (good if not missed and p95 < AIM_MS else bad).append(row["callers"])
    return (
        f"Nothing lost and 95 % under {AIM_MS} ms with {max(good, default=0)} callers; not with {min(bad, default='any tried')}."
    )


def main(
    project: Path = typer.Argument(..., help="Of base.en's shape; made there when it is not."),
    rows: str = typer.Option("1,10,25,50,75,100,10b,25b", help="Callers of each row; with a b they send as browsers do."),
    seconds: float = typer.Option(60, min=15, help="How long each row speaks."),
    name: str = typer.Option("load", help="What to call the results."),
) -> None:
    """Rows of more and more callers against one server."""
    recordings = read_recordings([PROJECT / "audio/test"])
    done: List[Dict[str, Any]] = []
    with Assistant(base_shaped(project.resolve())) as assistant:
        for row in ["5", *rows.split(",")]:  # the first warms up
            messages = "browser" if row.endswith("b") else "telephone"
            settings = LoadSettings(assistant.voice, int(row.rstrip("b")), seconds if done else 20, 5, messages)
            console.print(f"[dim]{settings.callers} callers, {messages} ...[/]")
            done.append(asyncio.run(measured(assistant, settings, recordings)))
    console.print(shown(done[1:]))
    if not all(row["kept_pace"] for row in done[1:]):
        console.print("* the callers themselves were late: this machine is too small, or busy with something else")
    console.print(bends(done[1:]))
    save(name, {"seconds": seconds, "rows": done[1:]})


if __name__ == "__main__":
    typer.run(main)

"""Prints the tables of docs/training.md, in Markdown, from the JSON in results/.

python benchmarks/tables.py
"""

import json
from typing import Any, Dict, List, Sequence

import numpy as np
from bench import HERE
from scipy.stats import t

CONDITIONS = {
    "clean": "clean",
    "noise_10_db": "10 dB",
    "telephone": "telephone",
    "soft": "soft",
    "room": "room",
    "loose": "loose",
}


def rows_of(pattern: str) -> List[Dict[str, Any]]:
    """The rows of the files in results/ whose names, without .json, match."""
    return [row for file in sorted((HERE / "results").glob(f"{pattern}.json")) for row in json.loads(file.read_text())["rows"]]


def mean_and_interval(values: Sequence[float]) -> str:
    """The mean and, of several, the 95 % interval of it (Student's)."""
    if len(values) < 2:
        return f"{values[0]:.1%}" if values else "not run"
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{np.mean(values):.1%} ± {half:.1%}"


def mean_of(values: Sequence[float]) -> str:
    """The mean, and of how many where there are several."""
    several = f" ({len(values)})" if len(values) > 1 else ""
    return f"{np.mean(values):.1%}{several}" if len(values) else ""


def main() -> None:
    """Prints the tables of docs/training.md, in Markdown, from the JSON in results/."""
    for name, title in (("probes", "head"), ("ablation_an4", "row"), ("ablation_coffee", "row")):
        rows = rows_of(name)
        if not rows:
            continue
        columns = [
            (d, key)
            for d in dict.fromkeys(row["set"] for row in rows)
            for key in CONDITIONS
            if any(key in r for r in rows if r["set"] == d)
        ]
        print(f"| | {' | '.join(f'{d}, {CONDITIONS[key]}' for d, key in columns)} |\n|---|{'---|' * len(columns)}")
        for row in dict.fromkeys(row[title] for row in rows):
            cells = [np.ravel([r[key] for r in rows if (r[title], r["set"]) == (row, d) and key in r]) for d, key in columns]
            print(f"| {row} | {' | '.join(mean_of(cell) for cell in cells)} |")
        print()
    for dataset in ("an4", "coffee"):
        rows = rows_of(f"few_{dataset}")
        methods = list(dict.fromkeys(row["method"] for row in rows))
        print(f"| {dataset}: clips an intent | {' | '.join(methods)} |\n|---|{'---|' * len(methods)}")
        for point in dict.fromkeys(row["an_intent"] for row in rows):
            cells = [[row["clean"] for row in rows if (row["an_intent"], row["method"]) == (point, method)] for method in methods]
            print(f"| {point} | {' | '.join(map(mean_and_interval, cells))} |")
        print()
    rows = rows_of("bases_*")
    bases_of = list(dict.fromkeys(row["base"] for row in rows))
    print(f"| set | {' | '.join(bases_of)} | share of the gap |\n|---|{'---|' * len(bases_of)}---|")
    for dataset in dict.fromkeys(row["set"] for row in rows):
        cells = [[row["clean"] for row in rows if (row["set"], row["base"]) == (dataset, base)] for base in bases_of]
        low, middle, high = map(np.mean, cells)
        print(f"| {dataset} | {' | '.join(map(mean_and_interval, cells))} | {(middle - low) / (high - low):.0%} |")


if __name__ == "__main__":
    main()

"""Prints the tables of docs/training.md, docs/turns.md and docs/performance.md, in Markdown, from the JSON in results/.

python benchmarks/tables.py
"""

import json
from typing import Any, Dict, List, Optional, Sequence

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


def probes() -> None:
    """Accuracy of each head on the frozen encoder."""
    rows = rows_of("probes")
    sets = list(dict.fromkeys(row["set"] for row in rows))
    print(f"| | {' | '.join(f'{name}, clean' for name in sets)} |\n|---|{'---|' * len(sets)}")
    for head in dict.fromkeys(row["head"] for row in rows):
        cells = [np.mean(row["clean"]) for name in sets for row in rows if (row["head"], row["set"]) == (head, name)]
        print(f"| {head} | {' | '.join(f'{cell:.1%}' for cell in cells)} |")
    print()


def ablation(name: str) -> None:
    """The default recipe's accuracy, and by how many points the other rows differ from it with the same seeds."""
    measured = {(row["row"], row["seed"]): row for row in rows_of(name)}
    columns = [key for key in CONDITIONS if any(key in row for row in measured.values())]
    print(f"| {name.split('_')[1]} | {' | '.join(CONDITIONS[key] for key in columns)} |\n|---|{'---|' * len(columns)}")
    for row in dict.fromkeys(row for row, _ in measured):
        cells = []
        for key in columns:
            pairs = [
                (measured[row, seed][key], measured["default", seed][key])
                for of, seed in measured
                if of == row and key in measured[row, seed] and key in measured.get(("default", seed), {})
            ]
            several = f" ({len(pairs)})" if len(pairs) > 1 else ""
            mean = float(np.mean([got if row == "default" else got - default for got, default in pairs])) if pairs else 0.0
            cells.append((f"{mean:.1%}" if row == "default" else f"{100 * mean:+.1f}") + several if pairs else "")
        print(f"| {row} | {' | '.join(cells)} |")
    print()


def main() -> None:
    """Prints the tables of docs/training.md, docs/turns.md and docs/performance.md."""
    probes()
    for name in ("ablation_an4", "ablation_an4_all", "ablation_coffee"):
        ablation(name)
    for dataset in ("an4", "coffee"):
        rows = rows_of(f"few_{dataset}")
        methods = list(dict.fromkeys(row["method"] for row in rows))
        print(f"| {dataset}: clips an intent | {' | '.join(methods)} |\n|---|{'---|' * len(methods)}")
        for point in dict.fromkeys(row["an_intent"] for row in rows):
            cells = [[row["clean"] for row in rows if (row["an_intent"], row["method"]) == (point, method)] for method in methods]
            print(f"| {point} | {' | '.join(map(mean_and_interval, cells))} |")
        print()
    synthetic()
    bases()
    endpoints()
    for performance in (classify, front_end, start, answers, load):
        performance()
        print()


def synthetic() -> None:
    """Real speech heard by what learnt from synthetic speech, from a few real clips, and from both."""
    rows = rows_of("synthetic_coffee")
    voices = {"none": "no synthetic clip", "espeak": "400 by espeak", "several": "400 by espeak, flite, festival"}
    print(f"| coffee: real clips a drink | {' | '.join(voices.values())} |\n|---|{'---|' * len(voices)}")
    for point in sorted({row["an_intent"] for row in rows}, key=int):
        cells = [[row["clean"] for row in rows if (row["an_intent"], row["voices"]) == (point, name)] for name in voices]
        print(f"| {point} | {' | '.join(', '.join(f'{draw:.1%}' for draw in cell) or '–' for cell in cells)} |")
    for row in rows:
        if "all" in row:
            print(f"{row['voices']}, draw {row['draw']}: {row['all']:.1%} of all {row['tested']['all']}", end="; ")
    bank = [row["clean"] for row in rows_of("synthetic_bundled")]
    print(f"\nbundled: {mean_and_interval(bank)}\n")


def endpoints() -> None:
    """Turns cut off and the others' delay, by condition and method, as in docs/turns.md."""
    rows = {(row["condition"], row["method"], row["group"]): row for row in rows_of("endpoints")}
    conditions, methods, groups = (list(dict.fromkeys(key[place] for key in rows)) for place in range(3))
    for condition in conditions:
        sizes = [f"{group} ({rows.get((condition, methods[0], group), {'n': 0})['n']})" for group in groups]
        print(f"| {condition} | {' | '.join(sizes)} |\n|---|{'---|' * len(groups)}")
        for method in methods:
            print(f"| {method} | {' | '.join(_endpoint(rows.get((condition, method, group))) for group in groups)} |")
        print()


def _endpoint(row: Optional[Dict[str, Any]]) -> str:
    if row is None or row["cut_off"] is None:
        return "–"
    delay = f", {row['median_ms']:.0f} ({row['p95_ms']:.0f})" if row["median_ms"] is not None else ""
    never = f", {row['never_ended']} never" if row["never_ended"] else ""
    return f"{row['cut_off']:.1%}{delay}{never}"


def results(name: str) -> Dict[str, Any]:
    """One file of results; without rows where it was not measured yet."""
    file = HERE / "results" / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {"rows": []}


def classify() -> None:
    """Milliseconds to classify an utterance, and how many times as fast as each other way ours is in int8."""
    found = results("classify")
    names = ["int8", "fp32", *(name for name in ("pipeline", "sliced", "transcribing") if name not in found.get("left_out", {}))]
    others = names[2:]
    heads = [*(f"{name}, ms" for name in names), *(f"int8 to {name}" for name in others), "limit int8", "limit fp32"]
    print(f"| shape | s | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
    for row in found["rows"]:
        times = (f"{row['times'][name]['median_ms']:.1f} ({row['times'][name]['p95_ms']:.1f})" for name in names)
        faster = (f"{row['int8_faster_than'][name]:.1f}" for name in others)
        shares = (f"{row['limit_ms'][name]:.1f} ms, {row['share_of_limit'][name]:.0%}" for name in ("int8", "fp32"))
        print(f"| {row['shape'].replace('whisper-', '')} | {row['seconds']:g} | {' | '.join([*times, *faster, *shares])} |")
    print()
    for profile in found.get("profiles", []):
        parts = ", ".join(f"{operator} {share:.0%}" for operator, share in [*profile["by_operator"].items()][:6])
        print(f"- {profile['shape'].replace('whisper-', '')}, {profile['precision']}, {profile['seconds']} s: {parts}")


def front_end() -> None:
    """Microseconds for a second of audio."""
    print("| step | in pieces of | µs for 1 s |\n|---|---|---|")
    for row in results("front_end")["rows"]:
        print(f"| {row['step']} | {row['pieces']} | {row['median_us']:,.0f} ({row['p95_us']:,.0f}) |")


def start() -> None:
    """Seconds until the assistant hears, its first turns, and the imports that take longest."""
    found = results("start")
    if "medians" in found:
        ready, first, second = (found["medians"][name] for name in ("ready_s", "first_turn_ms", "second_turn_ms"))
        print(f"Ready after {ready:.1f} s; first turn {first:.0f} ms, second {second:.0f} ms.\n")
        print("| package | s |\n|---|---|")
        for package, seconds in [*found["imports_s"]["rasa"].items()][:6]:
            print(f"| {package} | {seconds:.2f} |")
        sums = {part: sum(found["imports_s"][part].values()) for part in ("rasa", "ours_on_top")}
        print(f"| all of Rasa's | {sums['rasa']:.2f} |\n| ours on top | {sums['ours_on_top']:.2f} |")


def answers() -> None:
    """One call: from the end of the turn, with and without classifying in advance."""
    ways = results("answers_base").get("ways", {})
    print(f"| from the end of the turn, ms | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
    for figure, name in {
        "asr": "to the intent",
        "first_response": "to the first message",
        "tts_first_byte": "to the first audio",
    }.items():
        found = [way["latency"][f"{figure}_latency_ms"] for way in ways.values()]
        cells = (f"{row['median']:.1f} ({row['p95']:.1f})" for row in found)
        print(f"| {name} | {' | '.join(cells)} |")


def load() -> None:
    """Many calls, by row: what became of what was said, and how soon the bot answered."""
    heads = (
        "callers | said | right | wrong | rejected | lost otherwise | to the message, callers' clock | server's | status, 95 %"
    )
    print(f"| {heads} | cores | MB a call |\n|{'---|' * 11}")
    for row in results("load")["rows"]:
        counts, latency = row["counts"], row["latency_ms"]
        callers, server = (
            f"{latency[f'{whose}_message']['median']:.0f} ({latency[f'{whose}_message']['p95']:.0f})"
            for whose in ("caller", "server")
        )
        cells = [
            f"{row['callers']}, {row['messages']}{'' if row['kept_pace'] else ' *'}",
            *(str(counts[name]) for name in ("said", "right", "wrong")),
            str(row["rejected"]),
            str(max(0, counts["lost"] - row["rejected"])),
            *(callers, server, f"{row['status_ms']['p95']:.0f}", f"{row['cores']:.2f}", f"{row['mb_a_call']:.1f}"),
        ]
        print(f"| {' | '.join(cells)} |")


def bases() -> None:
    """Accuracy from each base model, and how much of the way from random weights to the teacher the student goes."""
    rows = rows_of("bases_*")
    names = list(dict.fromkeys(row["base"] for row in rows))
    print(f"| set | {' | '.join(names)} | share of the gap |\n|---|{'---|' * len(names)}---|")
    for dataset in dict.fromkeys(row["set"] for row in rows):
        cells = [[row["clean"] for row in rows if (row["set"], row["base"]) == (dataset, base)] for base in names]
        share = ""
        if len(cells) == 3 and all(cells):  # else some were not run yet
            low, middle, high = map(np.mean, cells)
            share = f"{(middle - low) / (high - low):.0%}"
        print(f"| {dataset} | {' | '.join(map(mean_and_interval, cells))} | {share} |")
    print()


if __name__ == "__main__":
    main()

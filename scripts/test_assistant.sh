#!/usr/bin/env bash
# The assistant's own tests, by Rasa's unmodified commands: data, NLU on the spoken test part, spoken stories.
set -euo pipefail
cd "$(dirname "$0")/../assistant_project"
export PATH="$PWD/../.venv/bin:$PATH"
export RASA_TELEMETRY_ENABLED=false TF_CPP_MIN_LOG_LEVEL=3 SQLALCHEMY_SILENCE_UBER_WARNING=1
rasa train
rasa data validate --fail-on-warnings
rasa test nlu --nlu tests/nlu_spoken.yml --no-plot
rasa test core --e2e --stories tests/test_stories.yml --no-plot  # without --e2e the written intents are taken, and nothing is heard
python - <<'PY'
import json
from pathlib import Path

import yaml

nlu = json.loads(Path("results/intent_report.json").read_text())
print("\nSpoken test part (another synthesizer, other sentences):")
for intent, row in sorted(nlu.items()):
    if isinstance(row, dict) and not intent.endswith("avg"):
        print(f"  {intent:22} F1 {row['f1-score']:6.1%}   {int(row['support']):4} clips")
accuracy = nlu.get("accuracy", nlu["micro avg"]["f1-score"] if "micro avg" in nlu else float("nan"))
print(f"  accuracy {accuracy:.1%}, macro-F1 {nlu['macro avg']['f1-score']:.1%}")
stories = len(yaml.safe_load(Path("tests/test_stories.yml").read_text())["stories"])
failed = Path("results/failed_test_stories.yml").read_text().count("- story:")
print(f"Spoken stories: {stories - failed} of {stories} went as written.")
PY

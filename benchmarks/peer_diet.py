"""Rasa's DIET on typed text, behind a transcriber; asked by `peers.Worker`, a line each time.

Trained once, for few epochs, on the banking assistant's typed examples, and kept: what it says is not measured here.
"""

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

PROJECT = Path(__file__).resolve().parent.parent / "assistant_project"
CONFIG = """
recipe: default.v1
assistant_id: diet
language: en
pipeline:
- name: WhitespaceTokenizer
- name: CountVectorsFeaturizer
- {name: CountVectorsFeaturizer, analyzer: char_wb, min_ngram: 1, max_ngram: 4}
- {name: DIETClassifier, epochs: 2}
"""


def trained(folder: Path) -> Path:
    """The model, which is trained when it is not there."""
    from rasa.model_training import train_nlu

    models = sorted(folder.glob("*.tar.gz"))
    if not models:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yml").write_text(CONFIG)
        train_nlu(str(folder / "config.yml"), str(PROJECT / "data/nlu_typed.yml"), str(folder))
        models = sorted(folder.glob("*.tar.gz"))
    return models[-1]


def main() -> None:
    """Answers a sentence with milliseconds and intent."""
    answers, sys.stdout = sys.stdout, sys.stderr  # Rasa prints
    import rasa
    from rasa.core.agent import Agent
    from rasa.utils.log_utils import configure_structlog

    configure_structlog(logging.WARNING)  # as a server: nothing a message
    agent = Agent.load(str(trained(Path(sys.argv[1]))))
    loop = asyncio.new_event_loop()
    print(json.dumps({"rasa": rasa.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        parsed = loop.run_until_complete(agent.parse_message(json.loads(line)))
        milliseconds = (time.perf_counter() - began) * 1000
        print(json.dumps({"ms": milliseconds, "intent": parsed["intent"]["name"]}), file=answers, flush=True)


if __name__ == "__main__":
    main()

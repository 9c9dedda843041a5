# One verb for each job. `make demo` is the place to begin.
.PHONY: setup demo demo-short talk test test-all fuzz test-assistant check bench bench-quick reproduce corpus pictures lock audit clean

PYTHON := .venv/bin/python

setup:            ## the environment, in .venv
	@bash scripts/setup.sh

demo: setup       ## train the banking assistant, start it, talk to it
	@$(PYTHON) scripts/demo.py

demo-short: setup ## the same with fewer turns
	@$(PYTHON) scripts/demo.py --short

talk: setup       ## leave the assistant running and say how to talk to it
	@$(PYTHON) scripts/talk.py

test: setup       ## the fast tests
	@$(PYTHON) -m pytest -m "not slow and not shared and not browser and not services"

test-all: setup   ## every test whose needs are met
	@$(PYTHON) -m pytest

fuzz: setup       ## a million cases on everything that reads what others write; counts go to benchmarks/results/fuzz.json
	@$(PYTHON) -m pytest tests/test_fuzz_*.py --hypothesis-profile long

test-assistant: setup ## the assistant's own tests, on speech, by Rasa's test commands
	@bash scripts/test_assistant.sh

check: setup      ## style and types
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

bench: setup      ## every figure: tables, and JSON in benchmarks/results (two hours, and faster-whisper from the registry)
	@$(PYTHON) benchmarks/bench.py
	@$(PYTHON) benchmarks/front_end.py
	@$(PYTHON) benchmarks/training.py speed
	@$(PYTHON) benchmarks/start.py
	@$(PYTHON) benchmarks/calls.py answers --project runs/base_shaped --name answers_base
	@$(PYTHON) benchmarks/load.py runs/base_shaped
	@$(PYTHON) benchmarks/memory.py runs/base_shaped
	@$(PYTHON) benchmarks/classify.py --peers

bench-quick: setup ## the front end, and one classification against the alternatives: two minutes, ends with the ratios
	@$(PYTHON) benchmarks/front_end.py --quick
	@$(PYTHON) benchmarks/classify.py --quick

reproduce: setup  ## the reference task: MInDS-14 en-US from openai/whisper-base.en (needs the hub, and hours or a GPU)
	@$(PYTHON) benchmarks/reproduce.py

corpus: setup     ## speak the sentences again (needs festival, flite)
	@$(PYTHON) corpus/generate.py

pictures: setup   ## the pictures of the documents, from the running software (needs Chromium; trains the assistant where it is not)
	@$(PYTHON) scripts/pictures.py

lock: setup       ## pin the dependencies anew
	$(or $(shell command -v uv),.uv/bin/uv) pip compile pyproject.toml --extra dev --universal --python-version 3.10 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --output-file requirements.lock

audit:            ## which advisories about what is pinned docs/advisories.md does not name (needs the Python Package Index itself)
	@python3 scripts/audit.py

clean:            ## everything that can be made again
	rm -rf .venv .uv runs assistant_project/.rasa assistant_project/models assistant_project/results

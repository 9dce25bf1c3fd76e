# Everything a fresh machine needs: Python 3.11+, pip and make.
PYTHON ?= python3
VENV := .venv
SERVERS := .venv-servers
BIN := $(VENV)/bin
# two workers where there are two cores; each test process keeps to one thread
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check study servers clean

demo: $(VENV)/installed
	$(BIN)/evalkit compare --model ckpt_1200 --ref gpt4_refs

test: check
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

study: $(VENV)/installed
	$(BIN)/pytest -m slow

# Infinity, for tests against a real one; it wants transformers below 5, so it stands beside
servers: $(SERVERS)/installed

$(SERVERS)/installed:
	$(PYTHON) -m venv $(SERVERS)
	$(SERVERS)/bin/pip install --quiet "infinity-emb[server,torch]==0.0.78" "transformers<5" \
	  torch==2.13.0
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[models]" --group dev
	touch $@

clean:
	rm -rf $(VENV) $(SERVERS) .evalkit

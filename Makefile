# What a person or CI does with this repository. On a fresh machine `make demo` and `make test` set up all they need.
# Targets with a comment after ## are listed by `make help`, under the headings that begin with ##@.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Exactly one of onnxruntime and onnxruntime-gpu may be installed: they share an import name.
RUNTIME ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(BIN)/python -m pip install --quiet
PROTOS := hangtag/protos/inference.proto hangtag/protos/classifier.proto
MODEL ?= lstm
TRITON_CLIENT := 58a44caa0dce77303115302e6dbdf64626b2b093
# Tests spend half of their time waiting for servers and timers, so two workers for each CPU keep the CPUs busy.
WORKERS := $(shell cpus=$$(nproc); echo $$((cpus < 2 ? 2 : 4)))
# If a library aborts a process of the tests, the run ends. Otherwise xdist would replace it, and then wait for ever.
IN_PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
DATASET := /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz

.DEFAULT_GOAL := help
.PHONY: help demo test-shape studies-check mutants test quick lint train export serve loadtest docs clean types imports stubs unit fast fuzz bench-server gpu-check \
	stores-check release-check triton-examples proto schema peers others triton fastapi dataset programs site site-lock

help: ## Show this list
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Experiments, benchmarks and the pages made of them: $(BIN)/python -m studies."
	@echo "Every option of the command: $(BIN)/hangtag COMMAND --help. Options for a target: make serve ARGS=\"--port 9000\"."

##@ Start here
demo: $(VENV)/.serve ## Serve the shipped models, classify images, load-test cnn, lstm, three models in 8 bits and a route (no training, no GPU, no Docker)
	BIN=$(BIN) examples/demo.sh

# mypy runs together with the tests, which leave a processor idle now and then. Without a cache it takes a minute.
test: $(VENV)/.dev $(VENV)-peers/.peers $(VENV)-others/.others dataset programs ## Run all checks and tests that need no Docker engine, in about eight minutes on 2 cores
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint imports stubs test-shape
	@$(MAKE) --no-print-directory --jobs 2 types unit

quick: $(VENV)/.dev ## Run lint, types, import rules and the fast tests, in under 90 seconds on 2 cores
	@$(MAKE) --no-print-directory --jobs 3 --output-sync=target lint types imports fast

lint: $(VENV)/.dev ## Check the style of Python, Dockerfiles and YAML
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint --config deploy/hadolint.yml deploy/Dockerfile deploy/test/Dockerfile
	$(BIN)/yamllint --strict --config-file deploy/yamllint.yml docker-compose.yml deploy

train: $(VENV)/.dev ## Train a network: make train MODEL=cnn
	$(BIN)/hangtag train $(MODEL) $(ARGS)

export: $(VENV)/.dev ## Publish the latest run of a network into models/: make export MODEL=cnn
	$(BIN)/hangtag export $(MODEL) $(ARGS)

serve: $(VENV)/.serve ## Serve models/ on 127.0.0.1:8001
	$(BIN)/hangtag serve $(ARGS)

loadtest: $(VENV)/.serve ## Load-test cnn, lstm and a route over both on a running server; the report goes to reports/latest
	@folder=reports/$$(date +%Y-%m-%dT%H-%M-%S); mkdir -p $$folder && ln -sfn $$(basename $$folder) reports/latest
	$(BIN)/hangtag loadtest cnn lstm fast-and-accurate --samples examples/test-images.npz --accuracy \
		--html reports/latest/loadtest.html --json=reports/latest/loadtest.json $(ARGS)

docs: $(VENV)/.dev ## Write the tables and pictures of docs/, studies/ and README.md from models, results, options and metrics
	$(BIN)/python -m studies report

# Sphinx warns of a broken link, and of a page that is missing in the menu of docs/conf.py. A warning ends the build.
# grep finds what a page would load from another host: scripts, styles, fonts, pictures.
site: $(VENV)-site/.site ## Make the site of docs/, site/index.html, and check its links
	@rm -rf site
	$(VENV)-site/bin/sphinx-build --quiet --fail-on-warning --keep-going docs site
	@! grep -rnoE '<(script|img|link|iframe)[^>]+(src|href)="(https?:)?//[^"]+|url\(.?(https?:)?//[^)]+' site --include='*.html' --include='*.css'

clean: ## Remove environments, caches and reports; keep runs/ and models/
	rm -rf .triton-examples $(VENV) $(VENV)-peers $(VENV)-others $(VENV)-triton $(VENV)-fastapi $(VENV)-site $(VENV)-stores site reports dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Parts of make test
types: $(VENV)/.dev ## Check types with mypy in strict mode
	nice $(BIN)/mypy

imports: $(VENV)/.dev ## Check which package imports which
	$(BIN)/lint-imports

stubs: $(VENV)/.dev ## Check that the committed message stubs are what the .proto files generate
	$(BIN)/python -m tests.protos.generated_stubs $(PROTOS)

unit: $(VENV)/.dev $(VENV)-peers/.peers $(VENV)-others/.others dataset programs ## Run all tests; some with ARGS="-k batcher -x"
	$(BIN)/pytest $(IN_PARALLEL) --durations 20 --durations-min 5 $(ARGS)

fast: $(VENV)/.dev $(VENV)-peers/.peers dataset ## Run the tests that need no training, no export, no server under load and no browser
	$(BIN)/pytest $(IN_PARALLEL) -m "not engine and not studies and not supply_chain and not slow" $(ARGS)

##@ Longer checks, on an idle machine
fuzz: fuzz-grpc fuzz-http fuzz-http2 fuzz-openapi fuzz-callers fuzz-files ## Attack a real server for up to three hours, six parts of at most 30 minutes each: fuzz-grpc, fuzz-http, fuzz-http2, fuzz-openapi, fuzz-callers, fuzz-files

# The parts send requests over gRPC and over HTTP, HTTP/2 frames, requests that openapi.json describes, calls that nobody
# waits for, and damaged files. A part that has not ended after FUZZ_MINUTES fails.
fuzz-grpc: TESTS := tests/serving/server/fuzz/test_fuzz.py
fuzz-http: TESTS := tests/serving/server/fuzz/test_http.py
fuzz-http2: TESTS := tests/serving/server/fuzz/test_http2.py
fuzz-openapi: TESTS := tests/serving/server/transport/http/test_openapi.py
fuzz-callers: TESTS := tests/serving/server/hostile
fuzz-files: TESTS := tests/export/third_party/test_fuzzing.py
fuzz-%: $(VENV)/.dev
	FUZZ_CASES=$(or $(FUZZ_CASES),4000) FUZZ_FILES=$(or $(FUZZ_FILES),1000) FORGOTTEN_CALLS=$(or $(FORGOTTEN_CALLS),10000) \
		timeout --signal INT --kill-after 60 $(or $(FUZZ_MINUTES),30)m $(BIN)/pytest $(TESTS) --timeout 1800 $(ARGS)

test-shape: $(VENV)/.dev ## Print how large the tests are and how many internal modules they name; fail above a limit
	$(BIN)/python -m tests.shape

mutants: $(VENV)/.dev dataset ## Put 141 small faults into the product, one at a time, and see which of them a test finds (an hour; resumes if it was stopped)
	$(BIN)/python -m tests.mutants.run reports/mutants-$$(git describe --always --dirty).jsonl $(ARGS)

studies-check: $(VENV)/.dev dataset programs ## Run each study for a moment, one after another, in about fifteen minutes, and check that it records what its page needs
	$(BIN)/pytest -m studies tests/studies $(ARGS)

bench-server: $(VENV)/.serve $(VENV)-triton/.triton ## Compare the server with Triton and others for half an hour; make docs then writes studies/bench/README.md (needs h2load)
	$(BIN)/python -m studies server run $(ARGS)

gpu-check: $(VENV)/.serve ## Check a GPU: does it answer like the CPU, are CUDA graphs captured, and what is faster
	$(BIN)/python -m studies gpu run $(ARGS)

stores-check: $(VENV)/.dev ## Check model repositories in az:// and gs:// with Azurite and fake-gcs-server (needs npm)
	BIN=$(BIN) deploy/stores-check.sh

release-check: $(VENV)/.dev ## Check that a release is cut (changelog, upgrade notes), build the wheel, install it in an empty environment, run the demo from there
	BIN=$(BIN) deploy/release-check.sh

triton-examples: $(VENV)/.dev $(VENV)-peers/.peers ## Run Triton's own example clients against the server (downloads them from GitHub)
	@test -e .triton-examples/src || { git init --quiet .triton-examples \
		&& git -C .triton-examples fetch --quiet --depth 1 https://github.com/triton-inference-server/client $(TRITON_CLIENT) \
		&& git -C .triton-examples checkout --quiet FETCH_HEAD; }
	$(BIN)/pytest tests/e2e/test_clients.py -k example $(ARGS)

##@ Generated files, and environments of other programs
proto: $(VENV)/.dev ## Generate the message stubs from the .proto files
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. $(PROTOS)

schema: $(VENV)/.dev ## Generate docs/loadtest.schema.json from the load test's types
	$(BIN)/python -m hangtag.serving.loadtest.report.json_document > docs/loadtest.schema.json

site-lock: $(VENV)/.dev ## Lock what makes the site, with hashes, in docs/requirements.txt; ARGS=--upgrade for newer versions
	$(BIN)/uv pip compile docs/requirements.in pyproject.toml --extra http --output-file docs/requirements.txt --universal \
		--python-version 3.11 --generate-hashes --no-annotate --quiet --custom-compile-command "make site-lock" $(ARGS)

peers: $(VENV)-peers/.peers ## Install tritonclient, perf_analyzer, grpcurl and KServe's clients into .venv-peers

others: $(VENV)-others/.others ## Install silero-vad, magika and RapidOCR, whose ONNX models tests serve and convert, into .venv-others

triton: $(VENV)-triton/.triton ## Install Triton (450 MB), which a benchmark compares the server with, into .venv-triton

fastapi: $(VENV)-fastapi/.fastapi ## Install FastAPI, which a benchmark compares the server over HTTP with, into .venv-fastapi

# Deployment: make -C deploy help. Experiments and the pages made of them: python -m studies.

dataset: # The tests read the real data set from Debian's package
	@test -e $(DATASET) || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends dataset-fashion-mnist >/dev/null; \
	else \
		echo "Fashion-MNIST is missing: run 'sudo apt-get install dataset-fashion-mnist', or see 'hangtag train --help'." >&2; exit 1; \
	fi

programs: # The tests look at pages in a real browser, compare with h2load, and call the tutorial's curl
	@for program in chromium:chromium curl:curl h2load:nghttp2-client; do \
		command -v $${program%:*} >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
				apt-get install -y -qq --no-install-recommends $${program#*:} >/dev/null; \
		else \
			echo "$${program%:*} is missing: run 'sudo apt-get install $${program#*:}'." >&2; exit 1; \
		fi; \
	done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=25.1'

$(VENV)/.serve: pyproject.toml | $(VENV)/bin/python
	@echo "installing hangtag[$(RUNTIME),network,loadtest] into $(VENV)"
	$(PIP) --editable '.[$(RUNTIME),network,loadtest]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing hangtag[$(RUNTIME),network,loadtest,train,otel] and the development tools into $(VENV)"
	$(PIP) --editable '.[$(RUNTIME),network,loadtest,stores,train,otel]' --group dev
	@touch $@ $(VENV)/.serve

comma := ,

# An environment next to $(VENV), for one dependency group: $(call environment,GROUP,WHAT IT CONTAINS)
define environment
	@echo "installing $(2) into $(VENV)-$(1)"
	$(PYTHON) -m venv $(VENV)-$(1)
	$(VENV)-$(1)/bin/python -m pip install --quiet 'pip>=25.1'
	$(VENV)-$(1)/bin/python -m pip install --quiet --group $(1)
endef

# NVIDIA's client and load generator register the protocol's names too, so they get a separate environment.
$(VENV)-peers/.peers: pyproject.toml
	$(call environment,peers,tritonclient$(comma) perf_analyzer and KServe's clients)
	@touch $@

# Other projects' packages may need other versions of hangtag's dependencies, torch and ONNX Runtime included.
$(VENV)-others/.others: pyproject.toml
	$(call environment,others,silero-vad$(comma) magika and RapidOCR)
	@touch $@

# Triton needs an older NumPy, and registers the protocol's names too.
$(VENV)-triton/.triton: pyproject.toml
	$(call environment,triton,Triton)
	@touch $@

# The packages that a user of FastAPI would install, for one benchmark.
$(VENV)-fastapi/.fastapi: pyproject.toml
	$(call environment,fastapi,FastAPI)
	@touch $@

# Sphinx, and the dependencies of hangtag's clients, whose docstrings Sphinx reads, in locked versions.
$(VENV)-site/.site: docs/requirements.txt
	@echo "installing Sphinx into $(VENV)-site"
	$(PYTHON) -m venv $(VENV)-site
	$(VENV)-site/bin/python -m pip install --quiet --require-hashes --requirement $<
	@touch $@

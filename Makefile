# Two commands set everything up by themselves on a fresh machine (Python >= 3.10; make test also wants a C++ compiler):
#   make demo   trains on real digits, shows the resolution study       (about 5 minutes of computing)
#   make demo-mae, demo-gen, demo-illama, demo-seg, demo-det: the same for the other tasks
#   make demo-deploy  exports trained models to every runtime, 8 bits included
#   make docs   builds the documentation into site/               (about a minute, in an environment of its own)
#   make test   completes the same environment and runs the tests       (first time: 10-15 minutes of compiling)
# VENV is the environment's folder; WHEELS keeps the compiled mmcv between environments.
# LINE=openmmlab uses OpenMMLab's own packages, in an environment of their own, where the default is the maintained line;
# LINE=latest the newest of everything, without mmdet: a canary, allowed to fail.

PYTHON ?= python3
LINE   ?= onedl
VENV   ?= $(if $(filter onedl,$(LINE)),.venv,.venv-$(LINE))
WHEELS ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/mmvisionllama/wheels
WORK   ?= work_dirs/demo
TESTS  ?= $(if $(filter latest,$(LINE)),$(CANARY),tests)
# what needs neither compiled operators nor mmdet
CANARY = tests/test_backbones tests/test_layers tests/test_checkpoints tests/test_generation tests/test_packaging.py \
	tests/test_configs/test_all_configs.py tests/test_configs/test_segmentation.py tests/test_deploy/test_export.py \
	tests/test_zoo.py
# small environments that need no torch
DOCS_VENV ?= .venv-docs
LINT_VENV ?= .venv-lint
export PYTHON VENV WHEELS LINE

PY = $(VENV)/bin/python

.PHONY: help study study-gpu demo demo-mae demo-gen demo-illama demo-seg demo-det demo-deploy test gpu-test bench-gpu lint check docs doctor clean env-%

help:
	@sed -n '2,6s/^# //p' Makefile

env-%:
	@tools/setup/environment.sh $*

demo: env-demo
	@$(PY) tools/demo/digits.py --work-dir $(WORK)

demo-mae: env-demo
	@$(PY) tools/demo/mae.py --work-dir $(WORK)-mae

demo-illama: env-demo
	@$(PY) tools/demo/illama.py --work-dir $(WORK)-illama

demo-gen: env-generation
	@$(PY) tools/demo/generation.py --work-dir $(WORK)-gen

demo-seg: env-segmentation
	@$(PY) tools/demo/segmentation.py --work-dir $(WORK)-seg

demo-det: env-test
	@$(PY) tools/demo/detection.py --work-dir $(WORK)-det

demo-deploy: env-test
	@$(PY) tools/demo/deploy.py --work-dir $(WORK)-deploy

# small models on real pictures in data/ (docs/study.md says where they come from); hours, and it goes on where it stopped
STUDY ?= cifar10 dit
study: env-test
	@nice -n 19 $(PY) tools/study/run.py $(STUDY)
	@$(PY) tools/study/page.py

# tiny models on one GPU in pieces of less than ten minutes, start, checkpoints and page included: the same command goes on.
# One of them leaves most of a large GPU idle: three at once
study-gpu: env-test
	@$(PY) tools/study/run.py cifar10_gpu --workers 3 --minutes 8.5
	@$(PY) tools/study/page.py

test: env-test
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/codespell
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

# where a GPU is: what only it can show, and the released code's numbers on it
gpu-test: env-test
	@$(PY) -m pytest -n 4 tests/test_gpu.py tests/test_layers/test_triton.py tests/test_layers/test_kernels.py
	@$(PY) -m pytest --device cuda tests/test_checkpoints/test_released

# measures everything into benchmarks/results/gpu_NAME.csv and .md, and attention into the table of 'auto'
bench-gpu: env-test
	@$(PY) benchmarks/gpu.py --table mmvisionllama/layers/attention_table.csv

lint: env-test
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format . ; $(VENV)/bin/codespell

# what test checks before the tests, in seconds and on a bare machine
check: $(LINT_VENV)/.stamp
	@$(LINT_VENV)/bin/ruff check . && $(LINT_VENV)/bin/ruff format --check . && $(LINT_VENV)/bin/codespell

docs: $(DOCS_VENV)/.stamp
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict >$(DOCS_VENV)/log 2>&1 || { grep -v '^INFO' $(DOCS_VENV)/log; exit 1; }
	@echo "site/index.html: $$(tail -n 1 $(DOCS_VENV)/log | sed 's/INFO *- *//')"

$(LINT_VENV)/.stamp: requirements/test.txt
	@$(PYTHON) -m venv $(LINT_VENV)
	@$(LINT_VENV)/bin/pip install --quiet --disable-pip-version-check $$(grep -E '^(ruff|codespell)==' $<)
	@touch $@

$(DOCS_VENV)/.stamp: requirements/docs.txt
	@$(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

doctor:
	@$(PY) -m mmvisionllama.doctor

# environments and what the demos have trained; the rest of work_dirs is yours
clean:
	rm -rf $(VENV) .venv-openmmlab .venv-latest $(DOCS_VENV) $(LINT_VENV) $(WORK) $(WORK)-* site .pytest_cache .ruff_cache mmvisionllama.egg-info

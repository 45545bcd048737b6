# Two commands set everything up by themselves on a fresh machine (Python >= 3.10; make test also wants a C++ compiler):
#   make demo   trains on real digits, shows the resolution study       (about 5 minutes of computing)
#   make demo-mae, demo-gen, demo-illama, demo-seg, demo-det: the same for the other tasks
#   make test   completes the same environment and runs the tests       (first time: 10-15 minutes of compiling)
# VENV is the environment's folder; WHEELS keeps the compiled mmcv between environments.
# LINE=openmmlab uses OpenMMLab's own packages, in an environment of their own, where the default is the maintained line.

PYTHON ?= python3
LINE   ?= onedl
VENV   ?= $(if $(filter openmmlab,$(LINE)),.venv-openmmlab,.venv)
WHEELS ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/mmvisionllama/wheels
WORK   ?= work_dirs/demo
TESTS  ?= tests
export PYTHON VENV WHEELS LINE

PY = $(VENV)/bin/python

.PHONY: help demo demo-mae demo-gen demo-illama demo-seg demo-det test lint doctor clean env-%

help:
	@sed -n '2,4s/^# //p' Makefile

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

test: env-test
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/codespell
	@$(PY) -m pytest -n 2 --dist loadfile $(TESTS)

lint: env-test
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format . ; $(VENV)/bin/codespell

doctor:
	@$(PY) -m mmvisionllama.doctor

clean:
	rm -rf $(VENV) work_dirs .pytest_cache .ruff_cache mmvisionllama.egg-info

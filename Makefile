# Two commands set everything up by themselves on a fresh machine (Python >= 3.10; make test also wants a C++ compiler):
#   make demo   trains on real digits, shows the resolution study       (about 5 minutes of computing)
#   make test   completes the same environment and runs the tests       (first time: 10-15 minutes of compiling)
# VENV is the environment's folder; WHEELS keeps the compiled mmcv between environments.

PYTHON ?= python3
VENV   ?= .venv
WHEELS ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/mmvisionllama/wheels
WORK   ?= work_dirs/demo
TESTS  ?= tests
export PYTHON VENV WHEELS

PY = $(VENV)/bin/python

.PHONY: help demo test lint env-demo env-test doctor clean

help:
	@sed -n '2,4s/^# //p' Makefile

env-demo:
	@tools/setup/environment.sh demo

env-test:
	@tools/setup/environment.sh test

demo: env-demo
	@$(PY) tools/demo/digits.py --work-dir $(WORK)

test: env-test
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/codespell
	@$(PY) -m pytest -n 2 --dist loadfile $(TESTS)

lint: env-test
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format . ; $(VENV)/bin/codespell

doctor:
	@$(PY) -m mmvisionllama.doctor

clean:
	rm -rf $(VENV) work_dirs .pytest_cache .ruff_cache mmvisionllama.egg-info

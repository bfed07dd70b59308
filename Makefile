# make train    set up, then train one run: make train RUN="model=resnet sparsity=1:8 recipe=mdgf"
# make test     set up, then run the whole test suite
PYTHON ?= python3
RUN ?= model=vit sparsity=1:32 recipe=sdgf
# Two processes of one thread each: on two cores, more threads would wait for each other.
TEST ?= -n 2

.PHONY: train test lint setup

train: setup
	.venv/bin/nmtrain $(RUN)

test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest $(TEST)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Made once, and again from nothing when the pins change. The copy of the pins comes last: a set-up that was cut off is
# not taken for a whole one.
setup:
	@cmp -s constraints.txt .venv/constraints.txt || { \
	  echo "setting up .venv from constraints.txt (a few minutes, about 6 GB)"; \
	  $(PYTHON) -m venv --clear .venv && \
	  .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' && \
	  cp constraints.txt .venv/constraints.txt; }

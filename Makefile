# make demo        a trained, verified bitstream and edge binary, and the page that shows it
# make board-test BOARD=ulx3s-85f PORT=/dev/ttyUSB0
#                  builds for a board, programs it, tests it; PORT=virtual needs no board. Leaves a dated record
# make test        the fast tests
# make test-all    those and the slow ones
# make lint        ruff and mypy over everything
# make mutants     one-line mutants of our own code against the tests that should kill them
#                  MUTANTS="--seconds 800" tries as many as there is time for
#                  PYTHON=… chooses the interpreter of the environment, TESTFLAGS=… goes to pytest
VENV   ?= .venv
BIN    := $(VENV)/bin
DIGEST := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)
READY  := $(VENV)/.ready-$(DIGEST)
PYTEST := $(BIN)/python -m pytest
# two at a time, a file's tests together: what a file has built once serves all of them
TWO    := -n 2 --dist loadfile

BOARD  ?= ulx3s-85f
PORT   ?= /dev/ttyUSB0

.PHONY: demo board-test test test-slow test-all lint mutants clean

demo: $(READY)
	@$(BIN)/greenedge run digits-mlp --target ulx3s-85f --target linux-x86
	@echo "the virtual board classifies the test images through its UART pins:"
	@$(BIN)/greenedge infer runs/digits-mlp/ulx3s-85f --virtual --inputs runs/digits-mlp/ulx3s-85f/2-export/inputs.npy -o runs/digits-mlp/board.csv

board-test: $(READY)
	@$(BIN)/greenedge run digits-mlp --target $(BOARD) -o runs/board-test/$(BOARD)
	@[ "$(PORT)" = virtual ] || $(BIN)/greenedge program runs/board-test/$(BOARD)
	@$(PYTEST) tests/hardware -m board -s --board-run runs/board-test/$(BOARD) --board-port $(PORT)

test: $(READY)
	@$(PYTEST) $(TWO) $(TESTFLAGS)

test-slow: $(READY)
	@$(PYTEST) $(TWO) -m slow $(TESTFLAGS) || [ $$? -eq 5 ]

test-all: test test-slow

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

mutants: $(READY)
	@$(BIN)/python -m tests.mutants.run $(MUTANTS)

clean:
	rm -rf $(VENV) runs build dist

# The environment is made again when its pins change; the mark is set last, so a half-made one is never used.
$(READY):
	@missing=; for tool in g++ make perl; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ "$$missing" ]; then echo "greenedge simulates hardware with a C++ compiler; missing:$$missing (apt install g++ make perl)" >&2; exit 1; fi
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 none; do \
	  if [ $$python = none ]; then echo "greenedge needs Python 3.11 or later; none of python3.11 to python3.14 and python3 is (apt install python3 python3-venv)" >&2; exit 1; fi; \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; done; \
	if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then echo "$$python has no venv module (apt install $$python-venv)" >&2; exit 1; fi; \
	echo "making $(VENV) with $$($$python --version) …" && rm -rf $(VENV) && $$python -m venv $(VENV)
	@echo "installing PyTorch …"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch==2.13.0
	@echo "installing greenedge, its compilers and simulators …"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[fpga-ice40,fpga-gowin,hls,test]"
	@touch $@

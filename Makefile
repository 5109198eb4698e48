# The daily verbs. `make demo` and `make test` need nothing but Python 3.11+ and the package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NOTEBOOK := notebooks/00_raw_to_model.ipynb
# A notebook always has neighbours; threads that wait asleep keep them from starving each other.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo notebooks test test-slow test-colab test-browser check docs bench clean
help:
	@echo "make demo    run the notebook from raw data to a quantized model that talks"
	@echo "make notebooks  run every notebook, ten minutes or more each"
	@echo "make test    run the tests (make test-slow: the ones with the real model; make test-colab, test-browser)"
	@echo "make check   lint, types, generated tables"
	@echo "make docs    write the generated tables of the README"
	@echo "make bench   measure against plain TRL and Unsloth, and data of up to 1 million rows"

$(VENV)/.base: pyproject.toml constraints/cpu.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python %d.%d found; ft_magic needs 3.11 or newer: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints/cpu.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints/cpu.txt -e ".[all,dev]"
	@touch $@

# Unsloth without its dependencies: they would pull CUDA builds of several gigabytes.
$(VENV)/.unsloth: $(VENV)/.base constraints/unsloth-cpu.txt
	$(BIN)/python -m pip install -q --no-deps -r constraints/unsloth-cpu.txt
	@touch $@

demo: $(VENV)/.base
	mkdir -p notebooks/out
	cd notebooks && ../$(BIN)/python -m jupyter nbconvert --to notebook --execute 00_raw_to_model.ipynb --output-dir out
	cd notebooks/out && ../../$(BIN)/python -m jupyter nbconvert --to html 00_raw_to_model.ipynb
	@echo "Done. Look at notebooks/out/00_raw_to_model.html; the run is in notebooks/ft_runs/."

notebooks: $(VENV)/.base
	mkdir -p notebooks/out
	cd notebooks && for file in *.ipynb; do \
		../$(BIN)/python -m jupyter nbconvert --to notebook --execute "$$file" --output-dir out || exit 1; \
		(cd out && ../../$(BIN)/python -m jupyter nbconvert --to html "$$file") || exit 1; \
	done
	@echo "Done. Look at notebooks/out/*.html; the runs are in notebooks/ft_runs/."

test: $(VENV)/.unsloth
	$(BIN)/python -m pytest

test-slow: $(VENV)/.unsloth
	$(BIN)/python -m pytest -m "slow and not gpu and not browser"

# The kernel side on Colab's own versions: what a cell does there before a worker starts.
KERNEL_TESTS := $(addprefix tests/test_,axes.py events.py spec.py yaml_body.py magics.py magics_kernel.py \
	completion.py cli.py hardware.py doctor.py ui_charts.py ui_environment.py ui_live.py ui_report.py ui_rows_js.py ui_show.py \
	ui_svg.py ui_template_view.py review.py memory_widget.py)

$(VENV)-colab/.base: pyproject.toml constraints/colab.txt
	$(PYTHON) -m venv $(VENV)-colab
	$(VENV)-colab/bin/python -m pip install -q --upgrade pip
	$(VENV)-colab/bin/python -m pip install -q -c constraints/colab.txt -e ".[widgets]" \
		ipykernel jupyter_client nbclient nbconvert tokenizers pytest pytest-timeout hypothesis
	@touch $@

test-colab: $(VENV)-colab/.base
	$(VENV)-colab/bin/python -m pytest $(KERNEL_TESTS)

test-browser: $(VENV)/.base
	$(BIN)/python -m pytest -m browser

check: $(VENV)/.base
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python docs/tables.py --check

docs: $(VENV)/.base
	$(BIN)/python docs/tables.py

bench: $(VENV)/.unsloth
	$(BIN)/python bench/run.py
	$(BIN)/python bench/data.py --rows 10000,100000,1000000

clean:
	rm -rf $(VENV) notebooks/out bench/out

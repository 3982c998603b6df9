# make book: the book as HTML.  make pdf: as one PDF, printed by Chromium.  make test: every test.
# They install what they need into .venv.

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

# All is run by name of the interpreter, from this folder: it may have been renamed since.
export PYTHONPATH := $(CURDIR)

.PHONY: book pdf test reference overview lint clean

book: $(INSTALLED)
	$(BIN)/python $(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

pdf: book
	$(BIN)/python book/_ext/pdf.py _build/html _build/book.pdf

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

reference: $(INSTALLED)
	$(BIN)/python tests/references.py

# The figure of the README: that of the scorecard.
overview: $(INSTALLED)
	$(BIN)/python -m hierphase run scorecard
	cp runs/scorecard/overview.png book/overview.png

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .

# torch first and alone: elsewhere in the list pip would weigh its other builds again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("hierphase needs Python \
	3.11 or newer; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e '.[book,cluster,test]'
	@touch $@

clean:
	rm -rf _build $(VENV) .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

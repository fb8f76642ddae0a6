# Every target works from a bare clone: the first one makes .venv and installs the project into it.
PROTOCOL ?= quick
DATASET ?= all
DEVICE ?= auto
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: install demo experts reproduce-figures report figures archive check docs bench test test-slow test-slurm clean-cache clean

# with the very versions that the tests ran with: make install CONSTRAINTS=constraints.txt
install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] < (3, 14), "nrc needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(if $(CONSTRAINTS),--constraint '$(CONSTRAINTS)')
	touch $@

# train the MuJoCo experts anew, one seed each (hours on one core, about 5,000 PPO steps a second), and choose among all
# that were trained; their libraries need other versions than the project, so they live in environments of their own
EXPERT_SEED ?= 1
EXPERTS := outputs/experts
experts: .venv/installed
	mkdir -p $(EXPERTS)
	test -x $(EXPERTS)/sf/bin/python || ($(PYTHON) -m venv $(EXPERTS)/sf && $(EXPERTS)/sf/bin/pip install --quiet -r scripts/experts/ppo.txt)
	test -x $(EXPERTS)/sac/bin/python || ($(PYTHON) -m venv $(EXPERTS)/sac && $(EXPERTS)/sac/bin/pip install --quiet -r scripts/experts/sac.txt)
	for name in swimmer reacher; do \
	  EXPERTS=$(EXPERTS) scripts/experts/train_ppo.sh $$name $(EXPERT_SEED) && \
	  $(EXPERTS)/sf/bin/python scripts/experts/export_ppo.py $(EXPERTS)/checkpoints/$${name}_seed$(EXPERT_SEED)/*.pth $(EXPERTS)/policies || exit 1; \
	done
	$(EXPERTS)/sac/bin/python scripts/experts/train_sac.py $(EXPERT_SEED) 600000 $(EXPERTS)/policies
	$(PY) scripts/make_expert_data.py --candidates $(EXPERTS)/policies

# one data set, one picture, at most two minutes
demo: .venv/installed
	$(PY) scripts/demo.py

# run what is missing, then draw everything; finished runs are skipped
# on your own images: make reproduce-figures DATASET=utkface FILE=UTKFace.tar.gz SET="data.size=64"
reproduce-figures: .venv/installed
	$(PY) scripts/reproduce_figures.py --protocol $(PROTOCOL) --dataset $(DATASET) --device $(DEVICE) $(if $(SGEMM),--sgemm '$(SGEMM)') \
		$(if $(FILE),--path '$(FILE)') $(foreach setting,$(SET),--set '$(setting)')

# every figure and the report from the archived runs in data/archive, without training: outputs/archive
figures: .venv/installed
	$(PY) scripts/archive.py --protocol $(PROTOCOL)

# maintainers: make the runs in outputs the archived ones
archive: .venv/installed
	$(PY) scripts/archive.py --protocol $(PROTOCOL) --pack

# write outputs/report/index.html anew from the runs and figures that are there
report: .venv/installed
	$(PY) scripts/report.py --protocol $(PROTOCOL)

# compare the scorecard of the runs (RUNS=archive: of the archived ones; or of another folder) with the committed one
check: .venv/installed
	$(PY) scripts/check.py --protocol $(PROTOCOL) --dataset $(DATASET) $(if $(RUNS),--outputs '$(RUNS)')

# the docstrings as static pages: outputs/docs/index.html
docs: .venv/installed
	$(PY) scripts/docs.py

# speed side by side with the plain way, to outputs/bench/*.json; one alone: make bench BENCH=sweep
bench: .venv/installed
	$(PY) scripts/bench.py $(BENCH)

test: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy nrc hydra_plugins scripts examples
	$(PY) -m pytest -n auto -m 'not slow'

test-slow: .venv/installed
	$(PY) -m pytest -m slow

# a sweep through a real SLURM of this one machine: Debian's packages, as root (see tests/slurm)
test-slurm: .venv/installed
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[slurm]'
	tests/slurm/with_slurm.sh $(PY) -m pytest tests/slurm/sweep.py

# decoded and drawn images, which the next run makes again
clean-cache:
	rm -rf outputs/cache

clean:
	rm -rf .venv build *.egg-info

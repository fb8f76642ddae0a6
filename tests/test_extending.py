"""docs/extending.md at its word: the files it shows, written into a copy of the project, do what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.S)
TRY = """
import json
from pathlib import Path
from nrc.cli.config import sweep_members
from nrc.data.mine import Circle
from nrc.figures import draw
from nrc.report.html import answers
from nrc.report.scorecard import committed, scorecard, table
from nrc.runs.read import Runs
from nrc.training import fit
short = ["protocol.epochs=2", "protocol.tau=null", "data.n=120", "model.width=8", "measure.log_spaced=0", "measure.evenly=1"]
for member in sweep_members("mine", "low_rank", "quick", Path("outputs"), short):
    assert fit(member.settings, member.directory) == "finished"
runs = Runs(Path("outputs"))
(circle,) = sweep_members("sweep", "mine", "quick", Path("outputs"), ["recipe=default/quick", "optim.weight_decay=0"])
rows = [row for row in scorecard(runs) if row.claim.id == "mine"]
print(json.dumps({
    "roles": sorted(run.role for run in runs.of("mine")["low_rank"]),
    "metric": [run.last("feature_condition") for run in runs.of("mine")["low_rank"]],
    "figures": [str(found.path) for found in draw("mine", runs)],
    "rule": rows[0].claim.rule, "measured": rows[0].finding.measured, "beside": sorted(rows[0].finding.beside),
    "committed": len(committed(table(rows))),
    "circle": [circle.settings.data.load().y_train.shape[1], circle.directory.parts[2]],
}))
"""  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the extended copy says of itself."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("nrc", "conf", "hydra_plugins"):
        shutil.copytree(REPO / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = BLOCK.findall((REPO / "docs" / "extending.md").read_text(encoding="utf-8"))
    assert len(blocks) == 6
    for name, text in blocks:
        file = copy / name
        assert not file.exists() and file.parent.is_dir(), (
            f"{name} is to be a new file in a folder that is there"
        )
        file.write_text(text, encoding="utf-8")
    file = copy / "nrc" / "metrics" / "assemble.py"
    text = file.read_text(encoding="utf-8")
    more = text.replace("import last_layer, layerwise\n", "import last_layer, layerwise, mine\n")
    more = more.replace(
        '    "mse": last', '    "feature_condition": mine.feature_condition,\n    "mse": last'
    )
    assert more.count("mine") == text.count("mine") + 2, (
        "the two lines that name a metric have no place any more"
    )
    file.write_text(more, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRY], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_metric_is_measured_by_every_run(told: dict) -> None:
    assert told["roles"] == ["control", "headline"] and all(v >= 1 for v in told["metric"])


def test_an_experiment_comes_with_its_figure(told: dict) -> None:
    names = {Path(path).name for path in told["figures"]}
    assert {"mine_low_rank.png", "mine_low_rank.pdf", "mine_low_rank.csv"} <= names


def test_a_claim_is_judged_beside_its_nulls_and_can_be_committed(told: dict) -> None:
    assert told["rule"] == "In every seed the condition ends below 100." and len(told["measured"]) == 1
    assert told["beside"] == ["at the start", "without weight decay"] and told["committed"] == 1


def test_a_data_set_is_one_class_and_one_file(told: dict) -> None:
    assert told["circle"] == [2, "circle"]

"""What is wrong on the command line ends in one line that says so; what merely looks odd works.

The lists below are what is refused, with words of the answer; `pytest -s tests/test_bad_input.py` prints each line.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bad_files import write_all
from command_line import Result, in_process, in_subprocess

FEW = ["protocol.tau=0.5", "measure.log_spaced=0", "measure.evenly=0", "model.width=8"]


def table(path: str, *more: str) -> list[str]:
    return [
        "data=table",
        f"data.path={path}",
        *([] if any("targets" in m for m in more) else ["data.targets=2"]),
        *more,
    ]


# what is given to train.py, and words of the one line that answers
REFUSED: list[tuple[list[str], str]] = [
    # files
    (table("missing.csv"), "missing.csv does not exist; give data.path an existing file"),
    (table("folder.csv"), "folder.csv is a folder; data.path must name a file"),
    (table("empty.csv"), "empty.csv is empty"),
    (table("header.csv"), "header.csv has no rows of numbers"),
    (table("one_row.csv"), "1 rows are too few for train and test"),
    (table("words.csv"), "column 'b' is not numeric (data row 41 is 'red')"),
    (table("mixed.csv"), "column 'a' is not numeric (data row 41 is '1;2;3;4;5')"),
    (table("comma.csv"), "is not numeric (data row 1 is '"),
    (table("latin.csv"), "latin.csv cannot be read as csv"),
    (table("twice.csv"), "2 columns are named 'b'; rename them"),
    (table("longer.csv"), "longer.csv cannot be read as csv"),
    (table("cut.csv"), "data row 40 (the last row: is the file cut short?)"),
    (table("gzipped.csv"), "gzipped.csv is compressed by gzip; rename it to gzipped.csv.gz"),
    (table("plain.csv.gz"), "Not a gzipped file"),
    (table("cut.csv.gz"), "cut.csv.gz cannot be read as csv (damaged or cut short?"),
    (table("cut.npz"), "cut.npz cannot be read as npz (damaged or cut short?"),
    (table("cut.npy"), "cut.npy cannot be read as npy (damaged or cut short?"),
    (table("cut.h5"), "cut.h5 cannot be read as HDF5 (damaged or cut short?"),
    (table("cut.parquet"), "cut.parquet cannot be read as parquet (damaged or cut short?"),
    (table("settings.json"), "settings.json has an unknown ending; expected .csv"),
    (table("'~nobody-of-this-name/x.csv'"), "write the folder out"),
    (table("~/x.csv"), "~/x.csv cannot be parsed; put a value with commas, brackets, =, ~ or quotes in two"),
    # never unpickled
    (table("pickle.pkl"), "pickle.pkl is a pickle, which could run code"),
    (table("objects.npy"), "objects.npy holds pickled objects, which could run code"),
    (table("objects.npz"), "objects.npz holds pickled objects, which could run code"),
    (table("disguised.npy"), "disguised.npy holds pickled objects, which could run code"),
    # numbers
    (table("nan_x.csv"), "column 'b', data row 4 is missing, NaN or infinite (1 such cells)"),
    (table("nan_y.csv"), "column 'v', data row 4 is missing, NaN or infinite"),
    (table("inf_x.csv"), "column 'b', data row 4 is missing, NaN or infinite"),
    (table("inf_y.csv"), "column 'v', data row 4 is missing, NaN or infinite"),
    (table("huge.csv"), "not finite as float32; drop or rescale such values"),
    (table("constant.csv"), "target 'v' is constant over the train rows"),
    (table("cube.npy"), "has shape (4, 3, 2); expected a matrix"),
    (table("words.npz"), "not numbers"),
    (table("three.npz"), "holds a, b; expected two arrays named x and y"),
    (table("bare.h5"), "holds rewards, z; expected two arrays named x and y"),
    (table("'x.npy,y_short.npy'"), "40 rows of inputs but 9 of targets"),
    # columns
    (table("good.csv", "data.targets=5"), "good.csv has 5 columns, but data.targets=5; at most 4"),
    (table("good.csv", "data.targets=0"), "data.targets is 0"),
    (table("good.csv", "data.targets=1.5"), "data.targets is 1.5"),
    (table("good.csv", "data.targets=[u,u]"), "name each target once"),
    (table("good.csv", "data.targets=[u,w]"), "has no column 'w'"),
    (table("good.csv", "data.targets={u:1}"), "data.targets is {'u': 1}"),
    (["data=table", "data.path=good.csv"], "data.targets is missing"),
    (["data=table"], "data.path is missing"),
    (table("good.csv", "data.test_path=other.csv"), "give both files the same columns in the same order"),
    (table("good.csv", "data.test_path=missing.csv"), "missing.csv does not exist; give data.test_path"),
    (table("good.csv", "data.name=../else"), "data.name is '../else'; expected letters"),
    # rollouts
    (["data.root=no_hdf5"], "there is no expert set nrc/reacher-expert-v0"),
    (["data.root=no_metadata"], "there is no expert set nrc/reacher-expert-v0"),
    (["data.root=bad_metadata"], "cannot be read as a Minari set"),
    (["data.root=no_space"], "metadata.json lacks observation_space or action_space"),
    (["data.root=cut_hdf5"], "main_data.hdf5 cannot be read as HDF5"),
    (["data.source=jat", "data.path=good.parquet"], "good.parquet has no column continuous_actions"),
    (["data.source=d4rl", "data.path=bare.h5"], "bare.h5 has no observations and actions"),
    (["data.source=d4rl"], "data.source=d4rl needs data.path"),
    (["data.source=web"], "data.source is 'web'; choose one of embedded, minari, jat, d4rl"),
    (["data.source=minari", "data.root=."], "or use data.source=embedded"),
    (["data.source=minari", "data.name=other", "data.root=."], "set data.revision to a commit of the hub"),
    (["data.dataset_id=../../x"], "data.dataset_id is '../../x'; expected an id"),
    (["data.limit=0"], "data.limit is 0; expected a number >= 2"),
    (table("good.csv", "data.limit=0"), "data.limit is 0; expected a number >= 3"),
    (["data.train_size=-5"], "data.train_size is -5"),
    (["data.train_size=999999999999"], "holds 1200 transitions"),
    (["data=low_rank", "data.n=999999999999"], "not enough memory (Unable to allocate"),
    (["data=sgemm"], "data.path is missing: the SGEMM run times are not shipped"),
    (["data=sgemm", "data.path=good.csv"], "good.csv has no column 'MWG': it is not the SGEMM set"),
    # settings
    (["data=reachr"], "there is no data/reachr; choose one of carla, carla_1d"),
    (["experiment=nonsense"], "there is no experiment/nonsense; choose one of animation"),
    (["model=resnet"], "model/resnet"),
    (["data=null"], "data is null; name one of the files in conf/data"),
    (["optim="], "optim is empty; name one of the files in conf/optim"),
    (["~model"], "model"),
    (["~optim"], "optim"),
    (["++data=5"], "force-add of config groups is not supported"),
    (["data=[]"], "data is []; name one of the files in conf/data"),
    (["name=null"], "name is None; give the folder below outputs/ a name"),
    (["name=../x"], "name is '../x', which is no folder below outputs/"),
    (["name=/x"], "name is '/x', which is no folder below outputs/"),
    (["~seed"], "there is no setting seed, but another one is given by it, as ${seed}"),
    (["optim.lr=${optim.nonsense}"], "there is no setting optim.nonsense, but another one is given by it"),
    (["~data._target_"], "data._target_ is missing; name a class"),
    (["recipe.quick=3"], "there is no setting recipe.quick; see conf/recipe"),
    (["recipe=swimmer"], "there is no recipe/swimmer; name a data set and a protocol"),
    (["measure.ranks=[a]"], "measure.ranks is ['a']: Value 'a'"),
    (["model.bias=maybe"], "model.bias is 'maybe'"),
    (["+data.x.y=3"], "data.x is {'y': 3}: Key 'x' not in 'Mujoco'"),
    (["data=low_rank", "data.noise=inf"], "data.noise is inf"),
    (["optim.lrr=3"], "there is no setting optim.lrr; see conf/optim"),
    (["nonsense=1"], "there is no setting nonsense; see conf/train.yaml"),
    (["+nonsense=1"], "unknown setting 'nonsense'"),
    (["optim.lr=abc"], "optim.lr is 'abc'"),
    (["optim.lr=inf"], "optim.lr is inf; it must be positive and finite"),
    (["optim.lr=nan"], "optim.lr is nan; it must be positive and finite"),
    (["optim.lr=1e-300"], "the run would take more than 1e+12 steps"),
    (["optim.lr=0.1", "optim.lr=0.2"], "optim.lr is given 2 times; give it once"),
    (["seed=0", "++seed=1"], "seed is given 2 times"),
    (["optim.weight_decay=-1"], "optim.weight_decay is -1; it must be >= 0"),
    (["optim.weight_decay=nan"], "optim.weight_decay is nan; it must be >= 0"),
    (["optim.momentum=1"], "optim.momentum is 1; it must lie in [0, 1)"),
    (["optim.loss_scale=inf"], "optim.loss_scale is inf"),
    (["optim.batch_size=2.5"], "optim.batch_size is 2.5"),
    (["optim.batch_size=0"], "optim.batch_size is 0; it must be at least 1"),
    (["optim.milestones=[0.5,0.2]"], "optim.milestones is [0.5, 0.2]"),
    (["protocol.tau=1", "protocol.epochs=2"], "give exactly one"),
    (["protocol.tau=nan"], "protocol.tau is nan; the length of the run must be positive and finite"),
    (["protocol.tau=inf"], "protocol.tau is inf"),
    (["protocol.epochs=0"], "protocol.epochs is 0"),
    (["protocol.epochs=999999999999999"], "the run would take more than 1e+12 steps"),
    (["measure.samples=1"], "measure.samples is 1; it must be at least 2"),
    (["measure.layers=fc9"], "measure.layers is 'fc9'; choose last or all"),
    (["measure.metrics=[nrc9]"], "there is no setting measure.metrics; see conf/measure"),
    (["measure.ranks=[9]", *FEW], "measure.ranks is [9], but there are 2 targets"),
    (["measure.evenly=999999999999"], "measure.evenly is 999999999999; give a number of steps"),
    (["measure.every=1", "protocol.epochs=99999999999"], "measure.every=1 would measure more than"),
    (["model.num_layers=0"], "model.num_layers is 0; it must be at least 1"),
    (["model.width=0"], "model.width is 0"),
    (["model.width=9999999"], "it does not fit into memory; make it smaller"),
    (["model.norm=layer"], "model.norm is 'layer'"),
    (["seed=-1"], "seed is -1"),
    (["seed=1.5"], "seed is 1.5; it must be a whole number"),
    (["seed=true"], "seed is True; it must be a whole number"),
    (["seed=99999999999999999999"], "seed is 99999999999999999999; it must be a whole number"),
    (["threads=0"], "threads is 0"),
    (["keep_weights=1"], "keep_weights is 1; it must be true or false"),
    (["debug=maybe"], "debug is 'maybe'; it must be true or false"),
    (["device=tpu"], "device is 'tpu'"),
    (["device=cuda"], "device is cuda, but this torch sees no GPU; use device=cpu"),
    (["data.path=my (1).csv"], "put a value with commas, brackets"),
    # config files
    (["--config-name=lone.json"], "Cannot find primary config 'lone.json'"),
    (["--config-dir=odd", "--config-name=settings"], "found duplicate key lr"),
    # classes that cannot be what is wanted
    (["model._target_=no_such.Model"], "model._target_ is 'no_such.Model', which cannot be imported"),
    (["model._target_=os.system"], "model._target_ is 'os.system', which cannot be imported"),
    (["data._target_=nrc.data.tables.table.Path"], "data._target_ is 'nrc.data.tables.table.Path'; it must be a dataclass"),
    (["data._target_=nrc.models.MLP"], "data._target_ is 'nrc.models.MLP'; it must be a dataclass with a method load"),
    # several values
    (["seed=0,1"], "seed=0,1 gives several values: add -m (--multirun) for a run with each"),
    (["hydra/launcher=nonsense", *FEW], "hydra/launcher/nonsense"),
    # where it goes
    (["hydra.run.dir=good.csv/run", *FEW], "good.csv/run: Not a directory; check the path"),
]  # fmt: skip

OTHER_SCRIPTS: list[tuple[str, list[str], str]] = [
    ("reproduce_figures.py", ["--dataset", "mars"], "invalid choice: 'mars'"),
    ("reproduce_figures.py", ["--dataset", "sgemm"], "sgemm needs its file: --sgemm FILE"),
    ("reproduce_figures.py", ["--dataset", "sgemm", "--sgemm", "missing.csv"], "missing.csv does not exist; give --sgemm"),
    ("reproduce_figures.py", ["--workers", "0"], "0 is not a whole number >= 1"),
    ("check.py", ["--protocol", "fast"], "invalid choice: 'fast'"),
    ("report.py", ["--outputs", "missing"], "--outputs missing is no folder"),
    ("make_expert_data.py", ["walker"], "no expert is called 'walker'; choose one of"),
    ("make_expert_data.py", ["reacher", "--candidates", "."], "holds no reacher_*.npz"),
    ("make_expert_data.py", ["reacher"], "exists; give --force to replace it or --out for another folder"),
    ("make_expert_data.py", ["reacher", "--out", "good.csv/new"], "Not a directory; check the path"),
]  # fmt: skip

ALL = [("train.py", *case) for case in REFUSED] + OTHER_SCRIPTS

# these work, and say what is notable about them
WORKS: list[tuple[list[str], str]] = [
    (table("collinear.csv"), "numerical rank of the targets 1 of 2"),
    (["data=table", "data.path=wide.npz"], "6 train and 2 test rows, 3 inputs -> 20 targets"),
    (["data=table", "data.path=wide.npz"], "numerical rank of the targets 5 of 20"),
    (table('"my data (1), späť 数据.csv"'), "32 train and 8 test rows"),
    (table("semicolon.csv"), "2 targets (u, v)"),
    (table("bom.csv", "data.targets=a"), "1 targets (a)"),
    (table("no header.csv"), "2 targets (column 3, column 4)"),
    (table("good.csv", "data.targets=[v,a]"), "3 inputs -> 2 targets (v, a)"),
    (table("'x.npy,y.npy'"), "3 inputs -> 2 targets"),
    (["optim.batch_size=5000", "protocol.epochs=3", "protocol.tau=null"], "started, 3 steps"),
    (["data.limit=2"], "2 train and 1 test rows"),
    (["model.num_layers=1"], "finished"),
]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad files")
    write_all(folder)
    return folder


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def one_line(name: str, result: Result, words: str) -> None:
    print(f"{name}\n    {result.err}", end="")
    assert words in result.err
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, "one line, no traceback"
    assert result.status != 0 and result.out == ""


def named(case: tuple) -> str:
    return " ".join(map(str, case[-2]))


def skip_if_pointless(arguments: list[str]) -> None:
    if arguments == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU here")


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=map(named, REFUSED))
def test_refused_in_one_line(files: Path, arguments: list[str], words: str) -> None:
    skip_if_pointless(arguments)
    before = tree(files)
    one_line(f"train.py {' '.join(arguments)}", in_process("train.py", arguments, files), words)
    assert tree(files) == before, "something half-written is left behind"


@pytest.mark.parametrize(("script", "arguments", "words"), OTHER_SCRIPTS, ids=map(named, OTHER_SCRIPTS))
def test_other_scripts_refuse_in_one_line(files: Path, script: str, arguments: list[str], words: str) -> None:
    before = tree(files)
    one_line(f"{script} {' '.join(arguments)}", in_process(script, arguments, files), words)
    assert tree(files) == before, "something half-written is left behind"


@pytest.mark.parametrize(("arguments", "words"), WORKS, ids=map(named, WORKS))
def test_odd_but_right(files: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    place = tmp_path / "späť (1)"
    result = in_process("train.py", [f"hydra.run.dir='{place}'", *few(arguments)], files)
    assert result.status == 0 and result.err == "" and words in result.out, result
    assert json.loads((place / "run.json").read_text())["status"] == "finished"


def few(arguments: list[str]) -> list[str]:
    """The arguments and those of FEW that they leave open."""
    keys = [a.partition("=")[0] for a in arguments]
    return [*arguments, *(a for a in FEW if a.partition("=")[0] not in keys)]


def test_nothing_was_unpickled(files: Path) -> None:
    assert not list(files.rglob("opened"))


@pytest.mark.parametrize("number", [0, 22, len(REFUSED) - 1])
def test_a_few_through_the_real_command_line(files: Path, number: int) -> None:
    arguments, words = REFUSED[number]
    one_line(f"train.py {' '.join(arguments)}", in_subprocess("train.py", arguments, files), words)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(ALL)))
def test_all_through_the_real_command_line(files: Path, number: int) -> None:
    script, arguments, words = ALL[number]
    skip_if_pointless(arguments)
    before = tree(files)
    one_line(f"{script} {' '.join(arguments)}", in_subprocess(script, arguments, files), words)
    assert tree(files) == before, "something half-written is left behind"


def test_a_diverging_run_says_so_and_is_recorded(tmp_path: Path) -> None:
    result = in_process(
        "train.py", few(["optim.lr=1e20", "protocol.tau=null", "protocol.epochs=40"]), tmp_path
    )
    assert result.status == 2 and "Traceback" not in result.err
    assert "diverged; use a smaller optim.lr" in result.err and result.err.count("\n") == 1
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["status"] == "diverged"


def test_a_directory_of_another_run_is_left_alone(tmp_path: Path) -> None:
    place = ["hydra.run.dir=run", *FEW]
    assert in_process("train.py", place, tmp_path).status == 0
    before = {file: file.read_bytes() for file in tree(tmp_path) if file.is_file()}
    for other, words in (("seed=3", "seed is 0 there and 3 here"), ("data.limit=50", "data.sha256 is ")):
        result = in_process("train.py", [*place, other], tmp_path)
        one_line(f"train.py {other}", result, f"run holds another run ({words}")
        assert "or delete that directory" in result.err
    assert {file: file.read_bytes() for file in tree(tmp_path) if file.is_file()} == before


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    result = in_subprocess("train.py", ["hydra.run.dir=locked/run", *FEW], tmp_path)
    one_line("train.py", result, "locked/run: Permission denied; check the path, its permissions")
    assert tree(tmp_path) == [tmp_path / "locked"]


def test_a_file_that_may_not_be_read(files: Path, tmp_path: Path) -> None:
    shutil.copy(files / "good.csv", tmp_path)
    (tmp_path / "good.csv").chmod(0)
    one_line("train.py", in_subprocess("train.py", table("good.csv"), tmp_path), "may not be read by you")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = in_process("train.py", [*table("missing.csv"), "debug=true"], tmp_path)
    assert result.status != 0 and "Traceback" in result.err and "missing.csv does not exist" in result.err


def test_an_unforeseen_error_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise ZeroDivisionError("nobody\nthought of it")

    monkeypatch.setattr("nrc.data.Mujoco.load", fail)
    result = in_process("train.py", [], tmp_path)
    one_line("train.py", result, "unforeseen ZeroDivisionError in test_bad_input.py:")
    assert result.status == 1 and "nobody thought of it; debug=true shows the traceback" in result.err


SWEEPS_REFUSED: list[tuple[list[str], str]] = [
    (["seed=0,-1", "hydra.mode=MULTIRUN"], "seed is -1; it must be a whole number"),
    (["optim.weight_decay=0,-1"], "optim.weight_decay is -1; it must be >= 0"),
    (["model.width=8,x"], "model.width is 'x'"),
    (["data=reacher,table"], "data.path is missing"),
    (["optim.momentum=0,0.9"], "two runs of the sweep share outputs/train-quick/reacher"),
    (["optim.lr=0.1,0.2", "hydra.sweep.dir=rates"], "two runs of the sweep share rates"),
    (["optim.lr=0.1,0.2", "hydra/launcher=basic"], "'hydra.sweep.dir=outputs/${name}/${slug:optim.lr}'"),
    (["model=mlp,deep_8x256"], "'hydra.sweep.dir=outputs/${name}/${slug:model}'"),
    (["experiment=glob(nonsens*)"], "the sweep has no run: experiment=glob(nonsens*) gives no value"),
    (["model=glob(nothing*)", "seed=0,1"], "the sweep has no run: model=glob(nothing*) gives no value"),
    (["seed=range(3,0)"], "the sweep has no run: seed=range(3,0) gives no value"),
    (["seed=0,1", "name=../x"], "name is '../x', which is no folder below outputs/"),
    (["seed=0,1", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs is 0"),
    (["seed=0,1", "optim.lrr=1"], "there is no setting optim.lrr"),
    (["--config-dir=configs", "experiment=mine"], "optim.weight_decay is -2"),
    (["--config-dir=nowhere", "seed=0,1"], "nowhere"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), SWEEPS_REFUSED, ids=map(named, SWEEPS_REFUSED))
def test_a_sweep_is_refused_for_its_worst_member_before_the_first_one_runs(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    sweeping = "@package _global_\nhydra: {sweeper: {params: {optim.weight_decay: '0,-2'}}}"
    (tmp_path / "configs/experiment").mkdir(parents=True)
    (tmp_path / "configs/experiment/mine.yaml").write_text(f"# {sweeping}\n")
    before = tree(tmp_path)
    more = [a for a in FEW if not any(b.startswith(a.split("=")[0]) for b in arguments)]
    flag = [] if "hydra.mode=MULTIRUN" in arguments else ["-m"]
    result = in_process("train.py", [*arguments, *more, *flag], tmp_path)
    one_line(f"train.py -m {' '.join(arguments)}", result, words)
    assert tree(tmp_path) == before, "something half-written is left behind"


@pytest.mark.slow
def test_a_sweep_with_a_config_folder_of_ones_own_runs(tmp_path: Path) -> None:
    (tmp_path / "my configs/experiment").mkdir(parents=True)
    (tmp_path / "my configs/experiment/mine.yaml").write_text("# @package _global_\nname: mine\n")
    arguments = ["--config-dir=my configs", "experiment=mine", "seed=0,1", *FEW, "-m"]
    result = in_subprocess("train.py", arguments, tmp_path)
    assert result.status == 0, result.err
    assert len(list(tmp_path.glob("outputs/mine/reacher/wd=*/seed=*/run.json"))) == 2

"""The command line: what it refuses, what it prints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, TINY_RUN, Cli, overriding

INLINE = ("--dispatch", "inline")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a finished run `r`."""
    from harness import Task
    from tests.helpers import trainings

    folder = tmp_path_factory.mktemp("results")
    task = Task(n_steps=5, batch_size=4, epochs=100, eval_paths=20)
    trainings.run(folder, task, ["reference"], seeds=(0, 1))
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--backends", "torhc"], "unknown backend `torhc` (did you mean `torch`?)"),
        (["--backends", "jxa,torhc"], "did you mean `jax`?"),
        (["--backends", "jxa,torhc"], "did you mean `torch`?"),
        (["--backends", "no.such.module:X"], "there is no module `no.such.module`"),
        (["--backends", "torch:"], "write `module:Class`"),
        (["--backends", "a-b:Class"], "write `module:Class`"),
        (["--backends", ":Class"], "write `module:Class`"),
        (["--backends", "tests.helpers.faulty:Hang"], "has no `Hang` (did you mean `Hangs`?)"),
        (["--backends", ""], "`--backends` is empty: give a value"),
        (["--backends", "jax,jax"], "none of them twice"),
        (["--preset", "postd"], "unknown preset `postd` (did you mean `posted`?)"),
        (["--set", "lag_wieght=1"], "unknown name `lag_wieght` (did you mean `lag_weight`?)"),
        (["--set", "rho"], "write KEY=VALUE"),
        (["--set", "rho=1"], "`rho` = '1': should be less than 1"),
        (["--set", "rho=nan"], "`rho` = 'nan'"),
        (["--set", "epochs=many"], "`epochs` = 'many': should be a valid integer"),
        (["--devices", "gpx"], "did you mean `gpu`?"),
        (["--devices", "gpu", "--backends", "reference"], "`reference` runs on the CPU only"),
        (["--seeds", "0"], "`--seeds 0`: should be at least 1"),
        (["--threads", "9999"], "`--threads 9999`: node"),
        (["--timeout", "-1"], "`--timeout -1`: write a duration as `90s`"),
        (["--seeds", "7-5"], "`7-5` is empty: write the smaller one first"),
        (["--seeds", "1,1-3"], "`--seeds 1,1-3`: name at least one, and none of them twice"),
        (["--seeds", "1,"], "`--seeds 1,`: write a number of seeds, or a list such as `1,5-7`"),
        (["--seeds", "0-999999999"], "there are at most 100000 seeds"),
        (["--threads", "1_0"], "`--threads 1_0`: should be a valid integer; some programs read 10"),
        (["--vectorize", "x"], "`--vectorize x`: should be a number of seeds, 2 or more, or `all`"),
        (["--address", "x"], "`--address` and `--runtime-env` are for Ray"),
        (["--sweep", "T=2,3"], "`--sweep`: unknown name `T`: it is called `n_steps`"),
        (["--dispatch", "slurm"], "unknown dispatch `slurm`; known: inline, ray"),
        (["--config", "/no/such.yaml"], "`--config /no/such.yaml` cannot be read"),
        (["--results", "/proc/nowhere"], "`/proc/nowhere` cannot be written"),
        (["--run-id", "../x"], "run id `../x`"),
        (["--resume", "missing"], "unknown run `missing`"),
        (["--precision", "much"], "`--precision much`: write a share as `2%` or `0.02`."),
        (["--precision", "2"], "`--precision 2`: write it with a percent sign: `2%` or `200%`."),
        (["--precision", "60%"], "`--precision 60%`: should be less than or equal to 0.5"),
        (["--precision", "nan"], "`--precision nan`: write a share"),
        (["--precision", "2%"], "nothing to compare `reference` with: name two backends"),
        (
            ["--precision", "2%", "--budget", "10 days"],
            "`--budget 10 days`: write a duration as `90s`",
        ),
        (["--precision", "2%", "--packed"], "`--precision` and `--packed` exclude each other"),
        (["--budget", "10m"], "`--budget` is the budget of `--precision`: it needs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_sentence(
    cli: Cli, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    given = ["--dispatch", "inline", "--backends", "reference", "--results", tmp_path, *arguments]
    done = cli(*overriding(*TINY_RUN, *given))
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.glob("*/manifest.json"))


def test_the_defaults_of_run_are_those_of_the_python_api() -> None:
    """Options that are not given never reach `Settings`."""
    from harness.cli.options import read_request
    from harness.cli.run import run
    from harness.runs.request import RunRequest
    from harness.runs.settings import Settings

    context = run.make_context("run", [])
    assert read_request(context) == RunRequest()
    shown = {name: context.params[name] for name in Settings.model_fields}
    assert Settings(**{name: value for name, value in shown.items() if value}) == Settings()


def test_all_problems_are_reported_at_once(cli: Cli) -> None:
    done = cli("run", "--set", "rho=7", "--set", "epochs=0", "--backends", "nope", "--seeds", "-1")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 4


@pytest.mark.parametrize("dispatch", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_missing_gpu_is_refused(cli: Cli, tmp_path: Path, dispatch: str) -> None:
    from harness.measure import machine

    if machine.has_gpu():
        pytest.skip("this machine has a GPU")
    done = cli(
        *("run", "--devices", "gpu", "--backends", "jax,torch", "--dispatch", dispatch),
        *("--results", tmp_path),
    )
    assert done.returncode == 2, done.stderr
    assert "backend `jax`: JAX finds no usable GPU" in done.stderr
    assert "backend `torch`: PyTorch finds no usable GPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_framework_is_named(program: Cli, tmp_path: Path) -> None:
    module = tmp_path / "needy.py"
    module.write_text("import no_such_framework\n\nclass B: ...\n")
    done = program("parity", *INLINE, "--backends", "needy:B", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "needs the package `no_such_framework`, which is not installed" in done.stderr


def test_a_config_file_is_the_task(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "task.yaml"
    config.write_text("preset: posted\nn_steps: 5\nepochs: 20\nlearning_rate: 1e-2\n")
    given = ("--backends", "reference", "--dispatch", "inline", "--seeds", 1, "--rounds", 2)
    where = ("--results", tmp_path, "--run-id", "x")
    done = cli("run", "--config", config, "--set", "epochs=40", *given, *where)
    assert done.returncode == 0, done.stderr
    task = json.loads((tmp_path / "x" / "manifest.json").read_text())["plan"]["task"]
    assert (task["train_sign"], task["epochs"], task["learning_rate"]) == (-1, 40, 0.01)
    config.write_text("- not\n- a mapping\n")
    assert "expected a mapping" in cli("run", "--config", config).stderr
    config.write_text("epochs: true\n")
    assert "`epochs` = True: should be a number" in cli("run", "--config", config).stderr
    config.write_text("epochs: 10\nhidden: 5\nepochs: 20\n")
    twice = "cannot be read: `epochs` is there twice: `10` in line 1 and `20` in line 3."
    assert twice in cli("run", "--config", config).stderr


@pytest.mark.parametrize(
    ("written", "epochs"),
    [("0020", 20), ("1e2", 100), ("5.0", 5), ("0x10", None), ("1_000", None), ("1:40", None)],
)
def test_a_number_means_the_same_everywhere(
    tmp_path: Path, written: str, epochs: int | None
) -> None:
    from harness import InvalidInput, Task
    from harness.cli.options import build_task
    from harness.trial.sweep import grid

    config = tmp_path / "task.yaml"
    config.write_text(f"epochs: {written}\n")

    def ways() -> Iterator[Callable[[], Task]]:
        yield lambda: build_task(None, config, ())
        yield lambda: build_task(None, None, (f"epochs={written}",))
        yield lambda: Task(epochs=written)
        yield lambda: grid(Task(), {"epochs": [written]})[0].task

    for way in ways():
        if epochs is not None:
            assert way().epochs == epochs
        else:
            with pytest.raises(InvalidInput, match=f"`epochs` = '{written}': .* programs read"):
                way()


COMMANDS = ["run", "show", "compare", "gate", "doctor", "list", "parity"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_teaches_by_example(cli: Cli, command: list[str]) -> None:
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert "python -m harness" in done.stdout


@pytest.mark.parametrize("table", ["summary", "steps", "curves", "trials", "chunks"])
def test_show_in_every_format(cli: Cli, results: Path, table: str) -> None:
    def show(kind: str) -> str:
        done = cli("show", "r", "--results", results, "--table", table, "--format", kind)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    rows = json.loads(show("json"))
    read = list(csv.DictReader(io.StringIO(show("csv"))))
    lengths = {"summary": 1, "steps": 5, "curves": 20, "trials": 2}
    assert len(rows) == len(read) == lengths.get(table, len(rows))
    assert set(rows[0]) == set(read[0])
    assert show("markdown").startswith("| ")
    text = show("table")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_list(cli: Cli, results: Path) -> None:
    done = cli("list", "--results", results)
    assert done.returncode == 0
    for expected in (
        "torch",
        "backends.jax_backend:JaxBackend",
        "posted",
        "lag_weight",
        "2/2 trials",
    ):
        assert expected in done.stdout


def test_show_warns_of_a_broken_record_and_shows_the_rest(
    cli: Cli, results: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    (copy / "r" / "records" / "seed1-reference-cpu.json").write_text('{"run":')
    done = cli("show", "r", "--results", copy)
    assert done.returncode == 0
    assert "seed1-reference-cpu.json` is left out: it is not a whole record" in done.stderr
    assert "1/1" in done.stdout


def test_parity_prints_every_check_and_names_what_fails(cli: Cli) -> None:
    backends = "reference,tests.helpers.faulty:MissingBiasGradient"
    done = cli("parity", *INLINE, "--backends", backends)
    assert done.returncode == 1
    assert "gradient in float64: worst at b_1[" in done.stderr
    assert done.stdout.count("yes") >= 8
    assert done.stdout.count("trajectory  float64") == 2 * done.stdout.count("quantity")


def test_parity_says_in_one_table_of_80_columns_what_passed(cli: Cli) -> None:
    done = cli("parity", *INLINE, "--backends", "reference")
    head, _, *rows = done.stdout.strip().splitlines()
    assert head.split() == ["backend", "quantity", "dtype", "passed", "element", "error"]
    assert len(rows) == 8
    in_csv = cli("parity", *INLINE, "--backends", "reference", "--format", "csv").stdout
    assert in_csv.startswith("backend,device,quantity,dtype,element,error,tolerance,passed\n")


def test_parity_prints_no_table_without_a_check(cli: Cli) -> None:
    done = cli("parity", *INLINE, "--backends", "tests.helpers.faulty:WrongOutputShape")
    assert done.returncode == 1
    assert "ContractViolation: `predict` outputs" in done.stderr
    assert done.stdout == ""


def test_the_committed_example_can_be_shown(cli: Cli) -> None:
    done = cli("show", "example", "--results", ROOT / "results")
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout
    assert done.stderr == ""


def test_a_process_that_dies_leaves_its_last_words(cli: Cli) -> None:
    done = cli("parity", "--backends", "tests.helpers.faulty:Dies", *INLINE)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "exit code 1 (in the parity check); its output ends with: a warning | long long" in line
    assert line.endswith(" | the reason \ufffd\\x1b[31m is here")
    assert len(line) < 600

"""The rules that keep the house in order: who may import whom, how long things get, what no file
may name."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "nnpar_lib"
FILES = sorted(LIBRARY.rglob("*.py"))
MAX_FILE_LINES = 299
MAX_FUNCTION_LINES = 25
LONG_FUNCTIONS = set()  # names of functions that are told in one piece for a reason

WINGS = ("trainers", "launch", "analysis")
COMMON_GROUND = (
    "config",
    "records",
    "results",
    "provenance",
    "data_files",
    "torchvision_operators",
    "schedules",
    "trace",
    "cuts",
    "offers",
    "study",
    "checkpoint_file",
)
APPLICATIONS = ("regimes_study", "regimes_runs", "sweep_speed", "gpu_report")
ONLY_IMPORTER = {
    "mpi4py": "nnpar_lib.trainers.communicator",
    "ipyparallel": "nnpar_lib.launch.engines",
}

# (who, whom): `who` and all below it must not import `whom` or anything below that
FORBIDDEN = [
    *((f"nnpar_lib.{common}", f"nnpar_lib.{wing}") for common in COMMON_GROUND for wing in WINGS),
    ("nnpar_lib.launch", "nnpar_lib.trainers"),
    ("nnpar_lib.launch", "nnpar_lib.analysis"),
    ("nnpar_lib.trainers", "nnpar_lib.launch"),
    ("nnpar_lib.trainers", "nnpar_lib.analysis"),
    ("nnpar_lib.analysis", "nnpar_lib.trainers"),
    ("nnpar_lib.analysis", "nnpar_lib.launch"),
    ("nnpar_lib.analysis", "torch"),
    ("nnpar_lib.analysis", "torchvision"),
    *((f"nnpar_lib.{part}", "nnpar_lib.bench") for part in (*WINGS, *COMMON_GROUND)),
    *(
        (f"nnpar_lib.{part}", f"nnpar_lib.{study}")
        for part in (*WINGS, *COMMON_GROUND)
        for study in APPLICATIONS
    ),
    *(
        (f"nnpar_lib.{part}", "nnpar_lib.__main__")
        for part in (*WINGS, *COMMON_GROUND, "bench", *APPLICATIONS)
    ),
    ("nnpar_lib.__main__", "nnpar_lib.trainers"),
    ("nnpar_lib.bench", "nnpar_lib.trainers"),
    *((f"nnpar_lib.{study}", "nnpar_lib.trainers") for study in APPLICATIONS),
]

# Within trainers a module imports only from lower layers or its own.
TRAINER_LAYERS = [
    {
        "timeline",
        "data",
        "digits",
        "models",
        "resnet",
        "batch_norm",
        "convolution",
        "group",
        "stall",
        "communicator",
    },
    {
        "placement",
        "holdout",
        "replica",
        "allreduce",
        "shared_update",
        "balance",
        "stage",
        "sharding",
        "memory",
        "summary",
        "budget",
        "process_group",
        "state",
        "pulse",
        "recording",
    },
    {"strategies"},
    {"tuning"},
    {"checkpoint", "training", "trial", "noise", "batched_trials"},
    {"measurement", "profiling", "transparency", "export", "roofline", "classify", "sweeping"},
]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree):
    """Return the dotted names that a module imports anywhere in it; "from a import b" names both a
    and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def is_within(name, package):
    return name == package or name.startswith(package + ".")


TREES = {module_name(path): ast.parse(path.read_text()) for path in FILES}
IMPORTS = {name: imported(tree) for name, tree in TREES.items()}


@pytest.mark.parametrize(("who", "whom"), FORBIDDEN, ids=" -> ".join)
def test_nobody_reaches_over_a_wall(who, whom):
    assert not [
        (module, name)
        for module, names in IMPORTS.items()
        if is_within(module, who)
        for name in names
        if is_within(name, whom)
    ]


@pytest.mark.parametrize(("package", "importer"), ONLY_IMPORTER.items())
def test_a_foreign_world_has_one_door(package, importer):
    importers = [
        module
        for module, names in IMPORTS.items()
        if any(is_within(name, package) for name in names)
    ]
    assert importers == [importer]


def trainer_layer(module):
    part = module.removeprefix("nnpar_lib.trainers.").split(".")[0]
    return next((level for level, parts in enumerate(TRAINER_LAYERS) if part in parts), None)


def trainer_imports():
    return [
        (module, name)
        for module, names in IMPORTS.items()
        if is_within(module, "nnpar_lib.trainers")
        for name in names
        if is_within(name, "nnpar_lib.trainers") and name != "nnpar_lib.trainers"
    ]


def test_every_trainer_has_its_layer():
    modules = [module for module in IMPORTS if module.startswith("nnpar_lib.trainers.")]
    assert [module for module in modules if trainer_layer(module) is None] == []


def test_trainers_import_downwards():
    assert [
        pair for pair in trainer_imports() if trainer_layer(pair[0]) < trainer_layer(pair[1])
    ] == []


def test_the_rules_see_the_imports_that_are_there():
    assert (
        "nnpar_lib.trainers.measurement",
        "nnpar_lib.trainers.training.train",
    ) in trainer_imports()
    assert "nnpar_lib.config.RunConfig" in IMPORTS["nnpar_lib.launch.preflight"]
    assert "torch" in IMPORTS["nnpar_lib.launch.preflight"]  # inside a function


def test_files_stay_short():
    lengths = {module_name(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def function_lines(function):
    """Count the lines of a function, decorators and docstring left out."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def test_functions_stay_short():
    lengths = {
        f"{module}.{node.name}": function_lines(node)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert {
        name for name, length in lengths.items() if length > MAX_FUNCTION_LINES
    } == LONG_FUNCTIONS


def tracked_files():
    process = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        pytest.skip("this is no git checkout: there is no list of its files")
    return [path for name in process.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# Written in two halves, so that this file does not hold what it looks for.
HOME_OF_A_MACHINE = ["/" + "work/", "/" + "root/", "/home" + "/runner", "/opt/" + "wheels"]
ADDRESS_OF_A_REGISTRY = [
    "pypi" + ".",
    "files.python" + "hosted",
    "npm" + "js",
    "repo.ana" + "conda",
]


def test_no_file_names_a_machine_or_a_registry():
    words = [word.encode() for word in HOME_OF_A_MACHINE + ADDRESS_OF_A_REGISTRY]
    assert [
        (path.relative_to(ROOT).as_posix(), word)
        for path in tracked_files()
        for word in words
        if word in path.read_bytes()
    ] == []

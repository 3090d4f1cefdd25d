"""The rules that keep the house in order: who may import whom, how long things get, what no file
may name."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "nnpar_lib"
FILES = sorted(LIBRARY.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_FUNCTION_STATEMENTS = 20
LONG_FUNCTIONS = set()  # names of functions that are told in one piece for a reason

TOP_LEVEL = {
    *("config", "records", "datasets", "trainers", "launch", "cli", "experiments", "analysis"),
    *("course", "verify", "schedules", "parts", "cuts", "__main__"),
}
COMMON_GROUND = ("config", "records", "datasets", "schedules", "parts", "cuts")
WINGS = ("trainers", "launch", "analysis")
APPLICATIONS = ("experiments", "cli", "__main__", "verify")
ONLY_IMPORTER = {
    "mpi4py": "nnpar_lib.trainers.communication.mpi",
    "ipyparallel": "nnpar_lib.launch.cluster",
}

# (who, whom): `who` and all below it must not import `whom` or anything below that
FORBIDDEN = [
    *((f"nnpar_lib.{common}", f"nnpar_lib.{wing}") for common in COMMON_GROUND for wing in WINGS),
    *(
        (f"nnpar_lib.{part}", f"nnpar_lib.{application}")
        for part in (*COMMON_GROUND, *WINGS)
        for application in APPLICATIONS
    ),
    *(
        (f"nnpar_lib.{wing}", f"nnpar_lib.{other}")
        for wing in WINGS
        for other in WINGS
        if wing != other
    ),
    *((f"nnpar_lib.{application}", "nnpar_lib.trainers") for application in APPLICATIONS),
    *(
        (f"nnpar_lib.{part}", "nnpar_lib.course")  # only notebooks call it
        for part in (*COMMON_GROUND, *WINGS, *APPLICATIONS)
    ),
    ("nnpar_lib.experiments", "nnpar_lib.cli"),
    ("nnpar_lib.cli", "nnpar_lib.__main__"),
    ("nnpar_lib.analysis", "torch"),
    ("nnpar_lib.analysis", "torchvision"),
]

# Within trainers and within analysis a folder imports only from itself and from folders before it.
LAYERS = {
    "trainers": [
        "timeline",
        "communication",
        "data",
        "models",
        "step",
        "strategies",
        "loop",
        "tasks",
    ],
    "analysis": ["scaling", "cost", "regimes", "claims", "figures"],
}


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


def test_the_top_level_holds_what_the_plan_says():
    parts = {module.split(".")[1] for module in IMPORTS if module != "nnpar_lib"}
    assert parts <= TOP_LEVEL


def layer(wing, module):
    """Return the folder of a wing that a module lies in, None where it lies elsewhere."""
    prefix = f"nnpar_lib.{wing}."
    return module.removeprefix(prefix).split(".")[0] if module.startswith(prefix) else None


def imports_between_folders(wing):
    """Return (module, imported name) where a module of one folder imports from another folder."""
    return [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if layer(wing, module) and layer(wing, name) and layer(wing, module) != layer(wing, name)
    ]


@pytest.mark.parametrize("wing", LAYERS)
def test_every_module_of_a_wing_lies_in_a_folder_of_the_plan(wing):
    assert {folder for module in IMPORTS if (folder := layer(wing, module))} == set(LAYERS[wing])


@pytest.mark.parametrize("wing", LAYERS)
def test_folders_import_downwards(wing):
    order = LAYERS[wing]
    assert [
        (module, name)
        for module, name in imports_between_folders(wing)
        if order.index(layer(wing, module)) < order.index(layer(wing, name))
    ] == []


def test_no_two_modules_import_each_other():
    edges = {
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if name in IMPORTS and name != module
    }
    assert {(one, other) for one, other in edges if (other, one) in edges} == set()


def test_the_rules_see_the_imports_that_are_there():
    runs, train = "nnpar_lib.trainers.tasks.runs", "nnpar_lib.trainers.loop.training.train"
    assert (runs, train) in imports_between_folders("trainers")
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


def function_statements(function):
    """Count the statements of a function, those of its blocks included, its docstring left out."""
    statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
    return len(statements) - 1 - (ast.get_docstring(function) is not None)


def test_functions_stay_short():
    functions = {
        f"{module}.{node.name}": node
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    too_long = {
        name
        for name, function in functions.items()
        if function_lines(function) > MAX_FUNCTION_LINES
        or function_statements(function) > MAX_FUNCTION_STATEMENTS
    }
    assert too_long == LONG_FUNCTIONS


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

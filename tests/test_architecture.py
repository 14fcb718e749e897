"""The floors of the house: who may import whom, read from the source."""

import ast
import graphlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("tying", "envs", "agents", "experiments")
FILES = [path.relative_to(ROOT) for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

# Top-level packages that a floor must not know.
FORBIDDEN = {
    "tying": {"gymnasium", "stable_baselines3", "sb3_contrib", "envs", "agents", "experiments"},
    "envs": {"stable_baselines3", "sb3_contrib", "agents", "experiments"},
    "agents": {"envs", "experiments"},
    "experiments": set(),
}
# Of tying, agents know values and configuration; nothing that trains.
KNOWN_TO_AGENTS = {"pointers", "strategies", "config", "errors", "files", "interface", "isolation", "registry", "schema"}

# The inner floors: what the modules of a folder may know of the other folders of their floor. "values" are the modules
# at the top of tying.
INNER = {
    "tying": {"tying.binding", "tying.training"},
    "tying.binding": {"values"},
    "tying.data": {"values"},
    "tying.models": {"values", "tying.models.parts"},
    "tying.models.parts": {"values"},
    "tying.tasks": {"values", "tying.models", "tying.data", "tying.training"},
    "tying.training": {"values", "tying.binding", "tying.models", "tying.tasks"},
    "tying.compression": {"values", "tying.binding", "tying.tasks", "tying.training"},
    "tying.hf": {"values", "tying.binding", "tying.data", "tying.models", "tying.tasks", "tying.training"},
    "experiments.run": set(),
    "experiments.study": {"experiments.run"},
    "experiments.tyingbench": {"experiments.run", "experiments.study", "experiments.compression"},
    "experiments.compression": {"experiments.run"},
    "experiments": {"experiments.run", "experiments.study", "experiments.compression"},
}
# Folders that are known by a part alone.
KNOWN_OF = {
    ("tying", "tying.training"): {"tying.training.record", "tying.training.trainer"},  # perplexity; the name in tying
    ("tying.tasks", "tying.training"): {"tying.training.record"},  # perplexity
    ("tying.training", "tying.models"): {"tying.models.base"},  # num_params
    ("tying.training", "tying.tasks"): {"tying.tasks.base"},  # a task is a value to the trainer
}


def imports(path: Path, root: Path = ROOT, top_level: bool = False) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever in it or only while it is itself imported.

    From a package, the names taken from it are yielded with it.
    """
    package = path.parent.parts
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    for node in _executed(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when a module is imported: nothing inside functions or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _executed(child)


def module_of(name: str) -> str | None:
    """Return the module of ours that an imported name is, or is taken from."""
    return next((found for found in (name, name.rpartition(".")[0]) if found in MODULES), None)


def modules_known(path: Path, top_level: bool = False) -> set[str]:
    """Return the modules of ours that a file imports."""
    return {found for name in imports(path, top_level=top_level) if (found := module_of(name)) is not None}


def folder_of(module: str) -> str:
    """Return the folder of a module, as a dotted name."""
    return ".".join(MODULES[module].parent.parts)


def test_all_floors_have_files() -> None:
    assert {path.parts[0] for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_only_go_down(path: Path) -> None:
    known = {name.partition(".")[0] for name in imports(path)}
    assert not known & FORBIDDEN[path.parts[0]]


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "agents"], ids=str)
def test_agents_know_only_the_values_of_tying(path: Path) -> None:
    from_tying = {name.split(".")[1] for name in imports(path) if name.startswith("tying.")}
    assert from_tying <= KNOWN_TO_AGENTS


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(("tying", "experiments"))])
def test_inner_floors_only_look_down(module: str) -> None:
    here = folder_of(module)
    floor = here.partition(".")[0]
    for known in modules_known(MODULES[module]):
        there = folder_of(known)
        if there.partition(".")[0] != floor or there == here:
            continue
        allowed = {"tying" if name == "values" else name for name in INNER[here]}
        assert there in allowed, f"{module} imports {known}"
        part = KNOWN_OF.get((here, there))
        assert part is None or known in part, f"{module} imports {known}"


def test_every_folder_has_its_rule_and_experiments_has_three_floors() -> None:
    folders = {".".join(path.parent.parts) for path in FILES if path.parts[0] in ("tying", "experiments")}
    assert folders == set(INNER)

    def height(folder: str) -> int:
        return 1 + max((height(below) for below in INNER[folder]), default=0)

    assert max(height(folder) for folder in folders if folder.startswith("experiments")) == 3


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[:2] == ("tying", "training")], ids=str)
def test_training_knows_tasks_and_no_languages(path: Path) -> None:
    known = set(imports(path))
    assert not {name for name in known if name.startswith(("tying.data", "tying.models.gpt", "tokenizers"))}
    code = (ROOT / path).read_text(encoding="utf-8")
    assert "vocab" not in code
    assert "perplexity" not in code or path.stem == "record"


def test_there_is_no_import_circle() -> None:
    graph = {module: modules_known(path, top_level=True) - {module} for module, path in MODULES.items()}
    assert graph["tying.training.trainer"] >= {"tying.tasks.base", "tying.binding"}  # the graph is not empty
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("path", [path for path in FILES if not path.stem.startswith("__")], ids=str)
def test_no_module_is_called_like_one_of_the_standard_library(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names


def test_relative_imports_are_understood(tmp_path: Path) -> None:
    (tmp_path / "tying").mkdir()
    (tmp_path / "tying" / "a.py").write_text("from . import b\nfrom ..envs import base\nfrom .data.tokens import batch\n")
    assert list(imports(Path("tying/a.py"), tmp_path)) == ["tying.b", "envs.base", "tying.data.tokens.batch"]


def test_imports_that_wait_are_not_of_the_top_level(tmp_path: Path) -> None:
    source = "if TYPE_CHECKING:\n import a\ndef f():\n import b\ntry:\n import c\nfinally:\n import d\n"
    (tmp_path / "x.py").write_text(source)
    assert list(imports(Path("x.py"), tmp_path, top_level=True)) == ["c", "d"]
    assert sorted(imports(Path("x.py"), tmp_path)) == ["a", "b", "c", "d"]


def setuptools_table() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_setuptools_lists_the_packages_that_exist() -> None:
    existing = {".".join(path.parent.parts) for path in FILES}
    assert sorted(setuptools_table()["packages"]) == sorted(existing)


def test_setuptools_lists_the_data_that_exist() -> None:
    of_packages = setuptools_table()["package-data"]
    listed = {path for package, globs in of_packages.items() for glob in globs for path in (ROOT / package).glob(glob)}
    tracked = subprocess.run(["git", "ls-files", *FLOORS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    data = {ROOT / name for name in tracked.split() if not name.endswith(".py")}
    assert {path for path in listed if path.is_file()} == data != set()


def test_every_package_has_its_init() -> None:
    folders = {path.parent for path in FILES}
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


SCRIPTS = [path for path in FILES if path.parent == Path("experiments") and not path.stem.startswith("__")]


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_a_script_has_at_most_sixty_lines(path: Path) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ("agents", "experiments")], ids=str)
def test_nobody_compares_floats_to_find_out_where_a_run_is(path: Path) -> None:
    """`ObservationView.progress` is exact; the remaining share of float32 is not. Kernels of the surrogate may read it."""
    if path == Path("agents/surrogate.py"):
        return
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "scalar":
            assert ast.unparse(node.args[0]) != "'remaining'", ast.unparse(node)


# Imports that are light.

BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)
sys.meta_path.insert(0, Absent())
"""


def run_python(code: str) -> str:
    """Run code in a process of its own, warnings as errors, and return what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_binding_needs_torch_and_numpy_alone() -> None:
    names = {"pydantic", "pydantic_core", "safetensors", "tokenizers", "gymnasium", "stable_baselines3", "sb3_contrib"}
    names |= {"filelock", "matplotlib", "pandas", "rich", "scipy", "sklearn", "tensorboard"}
    work = """
import torch, numpy
before = set(sys.modules)
from tying import LayerBinding, Pointers, strategies
model = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
LayerBinding(model).rebind(strategies.make("sequence:2", 3))
print(len(list(model.parameters())))
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(sorted(new - {"torch", "numpy"}))
"""
    assert run_python(BLOCK.format(names=names) + work) == "4\n['tying']\n"


@pytest.mark.parametrize("module", ["experiments.run.command_line", "experiments.train", "agents", "envs", "tying"])
def test_torch_is_not_imported_before_the_settings_are_right(module: str) -> None:
    heavy = {"torch", "stable_baselines3", "tokenizers"}
    found = run_python(f"import sys, {module}\nprint(sorted({heavy!r} & set(sys.modules)))")
    assert found == "[]\n"


def test_mistakes_of_a_call_are_answered_without_torch() -> None:
    code = BLOCK.format(names={"torch"}) + (
        "from experiments.run import cli\nfrom experiments.train import main\n"
        "print(cli.status(main, ['--agent', 'dqm', '--trainer.iterations', '-1']), cli.status(main, ['--help']))"
    )
    assert run_python(code).splitlines()[-1] == "2 0"


def test_scripts_run_by_their_path_too() -> None:
    """Python then puts experiments/ in front of everything: a module of ours must not hide one of the library's."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "experiments/train.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--trainer.iterations" in done.stdout

"""The floors of the house: who may import whom, read from the source."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("tying", "envs", "agents", "experiments")
FILES = [path.relative_to(ROOT) for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]

# Top-level packages that a floor must not know.
FORBIDDEN = {
    "tying": {"gymnasium", "stable_baselines3", "sb3_contrib", "envs", "agents", "experiments"},
    "envs": {"stable_baselines3", "sb3_contrib", "agents", "experiments"},
    "agents": {"envs", "experiments"},
    "experiments": set(),
}
# Of tying, agents know values and configuration; nothing that trains.
KNOWN_TO_AGENTS = {"pointers", "strategies", "records", "config", "errors", "files", "layout"}


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever in it; from a package, the names taken from it too."""
    package = path.parent.parts
    for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


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


def test_relative_imports_are_understood(tmp_path: Path) -> None:
    (tmp_path / "tying").mkdir()
    (tmp_path / "tying" / "a.py").write_text("from . import b\nfrom ..envs import base\nfrom .data.tokens import batch\n")
    assert list(imports(Path("tying/a.py"), tmp_path)) == ["tying.b", "envs.base", "tying.data.tokens.batch"]


def test_setuptools_lists_the_packages_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    existing = {".".join(path.parent.parts) for path in FILES}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(existing)


def test_every_package_has_its_init() -> None:
    folders = {path.parent for path in FILES}
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []

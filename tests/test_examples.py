"""The documentation's code runs: the example agent learns, and the Python blocks of every page do what they say.

Blocks of a page run from top to bottom in one namespace, in a process of their own and in a copy of the source. Before,
the files of the page are written to the copy: blocks that begin "# new file: PATH". A block without a language right behind
a Python block is its output; figures with a decimal point may differ, since the built-in corpus does between Pythons.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import pytest

import agents
import envs  # noqa: F401 (registers the ids)
from agents import Agent
from agents.base import masks_of
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FLOORS = ("tying", "envs", "agents", "experiments", "docs")
GREEDY = "docs.examples.greedy_agent:GreedyAgent"

# Runs the blocks of a page; empty lines keep the page's own line numbers in tracebacks.
RUN = """
import re, sys
from pathlib import Path

page = Path(sys.argv[1])
text = page.read_text(encoding="utf-8")
namespace = {"__name__": "page"}
for block in re.finditer(r"^```python\\n(?!# new file: )(.*?)^```", text, re.MULTILINE | re.DOTALL):
    line = text[: block.start(1)].count("\\n")
    exec(compile("\\n" * line + block[1], str(page), "exec"), namespace)
"""


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks in a language, top to bottom."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def write_files(page: Path, root: Path) -> None:
    """Write to a copy of the source what a page tells its reader to write."""
    for block in blocks(page, "python"):
        head, _, code = block.partition("\n")
        if head.startswith("# new file: "):
            (root / head.removeprefix("# new file: ")).write_text(code, encoding="utf-8")


def printed(page: Path) -> list[str]:
    """Return the lines that a page says its Python blocks print."""
    shown = re.findall(r"^```\n\n```\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in shown for line in block.splitlines()]


def without_decimals(text: str) -> str:
    """Return a text with every figure that has a decimal point replaced."""
    return re.sub(r"\d+\.\d+", "#", text)


@pytest.mark.e2e
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    for floor in FLOORS:
        shutil.copytree(ROOT / floor, tmp_path / floor, ignore=shutil.ignore_patterns("__pycache__"))
    write_files(page, tmp_path)
    given = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(page)]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    output = without_decimals(done.stdout).splitlines()
    assert [line for line in printed(page) if without_decimals(line) not in output] == []


def test_the_readme_shows_output() -> None:
    assert len(printed(ROOT / "README.md")) >= 2


def anchors(page: Path) -> set[str]:
    """Return the fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, fragment = target.partition("#")
        if not path.startswith("http"):
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not fragment or fragment in anchors(linked), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_the_tests_that_the_pages_name_exist() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    text = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("proofs.md", "systems.md"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) >= 16
    assert [name for name in named if not re.search(rf"^def {name}(_|\()", source, re.MULTILINE)] == ["test_fault_NN"]


def test_the_page_of_measurements_gives_the_figures_that_were_measured() -> None:
    figures = json.loads((ROOT / "docs/data/bench-2-cores.json").read_text(encoding="utf-8"))["figures"]
    text = (ROOT / "docs/proofs.md").read_text(encoding="utf-8")
    table = text[text.index("experiments.bench --out") : text.index("In fp32 matrix products")]
    forms = {
        "tokens/s": "{:,.0f}",
        "tokens per second": "{:,.0f}",
        "share of time": "{:.1%}",
        "recompilations": "{:.0f}",
        "allocated by a tie": "{:.0f}",
    }
    forms |= {"microseconds": "{:.0f}", "what falls": "{:.2f}", "memory of a process": "{:.2f}", "a batch of": "x {:.0f}"}
    forms |= {"instant environments": "{:,.0f}", "share of the peak": "{:.0%}"}
    for what, value in figures.items():
        form = next((form for part, form in forms.items() if part in what), "{:.3f}")
        assert form.format(value).replace("%", " %") in table, what


@pytest.mark.parametrize("name", ["results.md", "tyingbench.md", "compressing.md"])
def test_the_tables_of_a_page_are_those_of_the_data(name: str) -> None:
    tables = importlib.import_module("docs.tables")  # loads every shipped table: for this test alone
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert tables.filled(page) == page
    assert page.count("<!-- table ") == page.count("<!-- end -->") >= 2


@pytest.mark.parametrize(("curves", "trials"), [("agents", "trials"), ("agents_library", "trials_library")])
def test_the_regret_of_an_agent_is_the_mean_of_its_trials(curves: str, trials: str) -> None:
    folder = ROOT / "docs/data/tyingbench"
    key = ["agent", "param_weight"]
    means = pd.read_csv(folder / f"{trials}.csv").drop(columns="trial").groupby(key).mean()
    shown = pd.read_csv(folder / f"{curves}.csv").pivot(index=key, columns="queries", values="regret")
    for queries in (10, 20, 40, 60):
        assert np.allclose(means[f"after_{queries}"], shown[queries], atol=2e-5)
    assert len(means) == len(shown) > 0


def excess_loss(agent: Agent, env: gymnasium.Env, deterministic: bool) -> float:
    """Return by how much the last loss of an episode is above the best pattern's, nats per token."""
    observation, _ = env.reset(seed=1)
    terminated = False
    while not terminated:
        action = agent.predict(observation, masks_of(env), deterministic=deterministic)
        observation, _, terminated, _, info = env.step(action)
    best = env.unwrapped.simulator.loss(env.unwrapped.best, share=1.0)
    return info["reward_loss"] - best


@pytest.mark.learning
def test_the_example_agent_beats_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean over seeds 100 to 139 after 200 decisions: 0.16 nats above the best; random 0.46, the best 0."""
    monkeypatch.syspath_prepend(ROOT)
    env = gymnasium.make("tying/FormulaTying-v0")
    seeds = range(100, 140)
    learned = [excess_loss(agents.make(GREEDY, env, seed=s).learn(env, decisions=200), env, True) for s in seeds]
    luck = [excess_loss(agents.make("random", env, seed=s), env, False) for s in seeds]
    assert np.mean(learned) < np.mean(luck) - 0.2


def test_the_example_agent_decides_the_same_for_equal_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    means = []
    for _ in range(2):
        env = gymnasium.make("tying/FormulaTying-v0")
        means.append(dict(agents.make(GREEDY, env, seed=3).learn(env, decisions=60).mean))
    assert means[0] == means[1]

"""`sample`: text from the model of a run, finished or not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, words
from tests.experiments.runs import SMALL, call_in, change, read

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]
PROMPT = "def tie(layer):  # naïve"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that ends with tied layers."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    flags = [*SMALL, "--agent", "sequence:2", "--data.path", folder / "corpus.txt", "--out", "run [b]x"]
    assert call_in(folder, "train", *flags) == 0
    return folder / "run [b]x"


@pytest.fixture
def text(call: Call, run: Path) -> Callable[..., str]:
    """Return what is printed."""

    def of(*flags: str | Path, run: Path = run) -> str:
        finished = call("sample", run, "--num-tokens", "50", "--prompt", PROMPT, *flags)
        assert (finished.status, finished.err) == (0, "")
        return finished.out

    return of


def test_the_prompt_is_continued_by_as_many_tokens(text: Callable[..., str]) -> None:
    printed = text()
    assert printed.startswith(PROMPT)
    assert 20 < len(printed.removeprefix(PROMPT).rstrip("\n").encode(errors="replace")) <= 3 * 50  # byte tokens


def test_a_run_whose_layers_share_keys_and_values_is_sampled(text: Callable[..., str], tmp_path: Path) -> None:
    """Its summary says what decoding keeps of a token: keys and values of 2 of 3 layers, 8 features, 4 bytes each."""
    (tmp_path / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    flags = [*SMALL, "--agent", "sequence:2", "--data.path", "corpus.txt", "--model.kv-sharing", "cla:2", "--out", "run"]
    assert call_in(tmp_path, "train", *flags) == 0
    assert read(tmp_path / "run" / "final" / "summary.json")["cache_bytes_per_token"] == 2 * 2 * 8 * 4
    assert text("--temperature", "0", run=tmp_path / "run").startswith(PROMPT)


def test_the_seed_decides(text: Callable[..., str]) -> None:
    assert text("--seed", "0") == text("--seed", "0") != text("--seed", "1")
    assert text("--temperature", "0", "--seed", "0") == text("--temperature", "0", "--seed", "1") == text("--top-k", "1")


def test_an_unfinished_run_is_sampled_from_its_checkpoint(text: Callable[..., str], run: Path, tmp_path: Path) -> None:
    unfinished = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    shutil.rmtree(unfinished / "final")
    assert text(run=unfinished) == text()
    shutil.rmtree(unfinished / "checkpoints")


def test_the_agent_need_not_be_importable(text: Callable[..., str], run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    change(other / "config.json", ["resolved", "agent"], name="gone_package:Agent")
    assert text(run=other) == text()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["RUN", "--tempreature", "1"], "did you mean --temperature?"),
        (["RUN", "--num-tokens", "0"], "num_tokens = '0'"),
        (["RUN", "--prompt", ""], "prompt"),
        (["RUN", "stray"], "stray"),
        ([], "run"),
        (["nowhere"], "nowhere: not a run directory"),
    ],
)
def test_mistakes_are_one_line(call: Call, run: Path, flags: list[str], part: str) -> None:
    finished = call("sample", *(str(run) if flag == "RUN" else flag for flag in flags))
    (line,) = finished.err.splitlines()
    assert finished.status == 2
    assert line.startswith("error: ") and part in line


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has the device")
def test_a_device_that_is_not_there_is_blamed_on_its_own_flag(call: Call, run: Path) -> None:
    assert call("sample", run, "--device", "cuda").err.startswith("error: --device = 'cuda'")


def test_a_run_without_a_model_is_refused(call: Call, run: Path, tmp_path: Path) -> None:
    empty = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    shutil.rmtree(empty / "final")
    shutil.rmtree(empty / "checkpoints")
    assert call("sample", empty).err == f"error: {empty}: no model yet, not even a checkpoint\n"

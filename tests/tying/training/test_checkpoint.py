"""Checkpoints: all that a run is, in a folder, each set of weights once."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from corpus import made_up_task
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import words
from tying.data.corpora import DataConfig
from tying.data.tokens import TokenData, prepare
from tying.errors import InputError
from tying.files import write_checksums
from tying.models.config import GPTConfig
from tying.pointers import Pointers
from tying.training import checkpoint
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig
from tying.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

PATTERNS = ("0 1 2 3", "0 0 0 0", "0 1 1 1", "0 0 2 2", "0 1 0 1", "0 1 1 3")
MODEL = GPTConfig(num_layers=4, num_heads=2, width=8, context=8, dropout=0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """A small corpus."""
    path = tmp_path_factory.mktemp("data") / "corpus.txt"
    path.write_text(words(2_000), encoding="utf-8")
    return prepare(DataConfig(path=str(path), tokenizer="char"))


def make(data: TokenData, seed: int = 0, norms: str = "shared", untie_moments: str = "copy") -> Trainer:
    config = TrainerConfig(iterations=40, batch_size=2, device="cpu")
    binding = BindingConfig(norms=norms, untie_moments=untie_moments)  # type: ignore[arg-type]
    return Trainer(made_up_task(MODEL, data), config, OptimConfig(), binding, seed)


def trained(data: TokenData, pointers: str, norms: str = "shared") -> Trainer:
    """Return a trainer with a past: untied, rebound, and trained under the pointers asked for."""
    trainer = make(data, norms=norms)
    trainer.train(3)
    trainer.rebind(Pointers.parse(pointers))
    trainer.train(3)
    return trainer


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Return all tensors of the state, the moments too, as copies."""
    state = trainer.state_dict()
    return {f"{part}:{name}": value.clone() for part in ("model", "optimizer") for name, value in state[part].items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("norms", ["shared", "private"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_everything_comes_back_exactly(data: TokenData, tmp_path: Path, pattern: str, norms: str) -> None:
    before = trained(data, pattern, norms)
    checkpoint.save(before, tmp_path / "c")
    after = make(data, norms=norms)
    checkpoint.load(after, tmp_path / "c")
    assert (after.pointers, after.iteration) == (before.pointers, before.iteration)
    assert str(after.pointers) == pattern
    assert equal(tensors(after), tensors(before))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_future_is_the_same(data: TokenData, tmp_path: Path, pattern: str) -> None:
    before = trained(data, pattern)
    checkpoint.save(before, tmp_path / "c")
    after = make(data)
    after.rebind(Pointers((0, 0, 0, 0)))
    after.train(5)  # a past of its own must not show
    checkpoint.load(after, tmp_path / "c")
    for trainer in (before, after):
        trainer.train(2)
        trainer.rebind(Pointers((0, 1, 0, 3)))
        trainer.train(2)
    assert equal(tensors(after), tensors(before))


def test_a_copy_whose_moments_are_zero_has_the_same_future(data: TokenData, tmp_path: Path) -> None:
    """Saved right after the untie, when the copy has no moments; it then trains otherwise than with copied ones."""
    before, after, copying = (make(data, untie_moments=kind) for kind in ("zero", "zero", "copy"))
    for trainer in (before, copying):
        trainer.train(3)
        trainer.rebind(Pointers.parse("0 0 2 2"))
        trainer.train(3)
        trainer.rebind(Pointers.parse("0 1 2 2"))
    after.train(5)  # a past of its own must not show
    checkpoint.save(before, tmp_path / "c")
    checkpoint.load(after, tmp_path / "c")
    assert equal(tensors(after), tensors(before))
    for trainer in (before, after, copying):
        trainer.train(2)
    assert equal(tensors(after), tensors(before))
    assert not equal(tensors(after), tensors(copying))


def test_the_beginning_can_be_loaded_again(data: TokenData, tmp_path: Path) -> None:
    checkpoint.save(make(data), tmp_path / "c")
    after = trained(data, "0 1 1 3")
    checkpoint.load(after, tmp_path / "c")
    assert equal(tensors(after), tensors(make(data)))  # no moments are left over


def test_loaded_layers_are_tied_and_not_just_equal(data: TokenData, tmp_path: Path) -> None:
    checkpoint.save(trained(data, "0 1 1 3"), tmp_path / "c")
    trainer = make(data)
    checkpoint.load(trainer, tmp_path / "c")
    weights = [block.attn.qkv.weight for block in trainer.model.h]
    assert weights[1] is weights[2]
    assert len({id(weight) for weight in weights}) == 3


def test_the_tying_is_in_the_checkpoint(data: TokenData, tmp_path: Path) -> None:
    trainer = trained(data, "0 1 1 3")
    checkpoint.save(trainer, tmp_path / "c")
    assert json.loads((tmp_path / "c" / "state.json").read_text())["pointers"] == [0, 1, 1, 3]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_set_of_weights_is_stored_once_under_its_root(data: TokenData, tmp_path: Path, pattern: str) -> None:
    trainer = trained(data, pattern)
    checkpoint.save(trainer, tmp_path / "c")
    stored = load_file(tmp_path / "c" / "model.safetensors")
    layers = {int(name.split(".")[1]) for name in stored if name.startswith("h.")}
    assert layers == set(Pointers.parse(pattern).roots)
    assert sum(value.numel() for value in stored.values()) == trainer.trainable_params
    moments = load_file(tmp_path / "c" / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in moments} == set(stored)


def test_saving_changes_nothing(data: TokenData, tmp_path: Path) -> None:
    one, two = trained(data, "0 1 1 3"), trained(data, "0 1 1 3")
    checkpoint.save(one, tmp_path / "c")
    one.train(3)
    two.train(3)
    assert equal(tensors(one), tensors(two))


# What cannot be loaded.


@pytest.fixture
def folder(data: TokenData, tmp_path: Path) -> Path:
    """A checkpoint."""
    checkpoint.save(trained(data, "0 1 1 3"), tmp_path / "c")
    return tmp_path / "c"


def refusal(data: TokenData, folder: Path, seed: int = 0) -> str:
    """Return the one line with which a checkpoint is refused."""
    with pytest.raises(InputError) as caught:
        checkpoint.load(make(data, seed), folder)
    (line,) = caught.value.lines
    assert "\n" not in line
    assert str(folder) in line
    return line


def cuts(size: int) -> Iterator[int]:
    generator = random.Random(size)
    yield from (0, 1, 7, 8, 9, size - 1)
    yield from (generator.randrange(size) for _ in range(10))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_truncated_file_is_refused_wherever_it_was_cut(data: TokenData, folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for size in cuts(len(whole.rstrip())):
        (folder / name).write_bytes(whole[:size])
        assert name in refusal(data, folder)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_missing_file_is_named(data: TokenData, folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refusal(data, folder)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_file_of_rubbish_is_refused(data: TokenData, folder: Path, name: str) -> None:
    (folder / name).write_bytes(random.Random(0).randbytes(3_000))
    assert name in refusal(data, folder)


@pytest.mark.parametrize("content", ['{"format": 0}', "[]", "null", "3"])
def test_other_format_is_refused(data: TokenData, folder: Path, content: str) -> None:
    (folder / "state.json").write_text(content)
    assert "state.json: damaged or of another version" in refusal(data, folder)


@pytest.mark.parametrize("key", ["iteration", "pointers", "seed"])
def test_state_without_a_key_is_refused(data: TokenData, folder: Path, key: str) -> None:
    state = json.loads((folder / "state.json").read_text())
    del state[key]
    (folder / "state.json").write_text(json.dumps(state))
    assert key in refusal(data, folder)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_flipped_bit_is_refused(data: TokenData, folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    assert f"{name}: damaged (it is not as it was written); remove its folder" in refusal(data, folder)


def test_other_seed_is_refused(data: TokenData, folder: Path) -> None:
    assert "made with seed 0, not 1" in refusal(data, folder, seed=1)


@pytest.mark.parametrize("pointers", [[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 1], [1, 0, 0, 0], [0, 0, 2, 3]], ids=str)
def test_pointers_that_are_not_those_of_the_weights_are_refused(data: TokenData, folder: Path, pointers: list[int]) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "pointers": pointers}))
    write_checksums(folder)
    refusal(data, folder)


def test_model_of_another_shape_is_refused(data: TokenData, folder: Path) -> None:
    model = GPTConfig(num_layers=4, num_heads=2, width=16, context=8)
    trainer = Trainer(made_up_task(model, data), TrainerConfig(iterations=40, batch_size=2, device="cpu"))
    with pytest.raises(InputError, match="do not fit the model"):
        checkpoint.load(trainer, folder)


# What cannot be saved.


@pytest.mark.parametrize("failing", ["save_tensors", "write_json"])
def test_failed_write_leaves_nothing_behind(
    data: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    original, calls = getattr(checkpoint, failing), []

    def fail_at_last(*arguments: object) -> None:
        calls.append(arguments)
        if failing == "write_json" or len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(checkpoint, failing, fail_at_last)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(trained(data, "0 1 1 3"), tmp_path / "checkpoints" / "000003")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_full_disk_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-folder"):
        checkpoint.save_tensors({"a": torch.zeros(3)}, tmp_path / "no-folder" / "a.safetensors")

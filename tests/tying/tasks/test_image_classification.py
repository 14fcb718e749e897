"""Images with labels: digits, files in MNIST's form, folders of pictures; splits, metrics, mistakes."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tying import InputError, Trainer, tasks
from tying.data import images
from tying.data.corpora import DataConfig
from tying.data.images import LabelledImages
from tying.models.config import ViTConfig
from tying.tasks.config import ImageClassificationConfig
from tying.tasks.image_classification import ImageClassification
from tying.training.config import OptimConfig, TrainerConfig

SMALL = ViTConfig(num_layers=2, num_heads=2, width=16)


def task_of(model: ViTConfig = SMALL, **data: Any) -> ImageClassification:
    made = tasks.make(ImageClassificationConfig(), model, DataConfig(corpus="digits", **data))
    assert isinstance(made, ImageClassification)
    return made


def write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    content = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, end: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    parts = {part: (generator.integers(0, 256, (n, 4, 6)), np.arange(n) % 3) for part, n in (("train", 40), ("t10k", 9))}
    for part, (pixels, classes) in parts.items():
        write_idx(folder / f"{part}-images-idx3-ubyte{end}", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte{end}", classes)
    return parts


def write_pictures(folder: Path, mode: str = "L", size: tuple[int, int] = (6, 4), count: int = 20) -> None:
    for number, label in enumerate(("cat", "dog")):
        (folder / label).mkdir()
        for i in range(count):
            Image.new(mode, size, (10 * number + i,) * len(mode) if mode == "RGB" else 10 * number + i).save(
                folder / label / f"{i:02d}.png"
            )


def rows(data: LabelledImages) -> dict[str, list[bytes]]:
    return {name: [image.tobytes() for image in pixels] for name, pixels in data.pixels.items()}


def test_digits_are_split_once_and_for_all() -> None:
    data, again = images.read(DataConfig(corpus="digits")), images.read(DataConfig(corpus="digits"))
    assert {name: len(classes) for name, classes in data.classes.items()} == {"train": 1438, "reward": 179, "test": 180}
    assert data.sha256 == again.sha256 and data.labels == tuple("0123456789")
    assert data.pixels["train"].shape[1:] == (1, 8, 8) and data.pixels["train"].max() == 255
    assert all(len(set(classes)) == 10 for classes in data.classes.values())
    own = rows(data)
    whole = [image for part in own.values() for image in part]
    assert len(set(whole)) == len(whole) == 1797  # so that no picture is in two splits
    assert data.sha256 != images.read(DataConfig(corpus="digits", test_fraction=0.2)).sha256


@pytest.mark.parametrize("end", ["", ".gz"])
def test_files_in_mnists_form_keep_their_test_part(tmp_path: Path, end: str) -> None:
    parts = write_mnist(tmp_path, end)
    data = images.read(DataConfig(path=str(tmp_path), corpus="digits", reward_fraction=0.25))
    assert {name: len(classes) for name, classes in data.classes.items()} == {"train": 30, "reward": 10, "test": 9}
    assert np.array_equal(data.pixels["test"][:, 0], parts["t10k"][0])
    assert np.array_equal(data.classes["test"], parts["t10k"][1])
    found = rows(data)
    assert sorted(found["train"] + found["reward"]) == sorted(
        image.astype(np.uint8).tobytes() for image in parts["train"][0]
    )
    by_image = {image.astype(np.uint8).tobytes(): label for image, label in zip(*parts["train"], strict=True)}
    assert [by_image[image] for image in found["reward"]] == data.classes["reward"].tolist()
    assert data.labels == ("0", "1", "2")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_folders_of_pictures_are_labels(tmp_path: Path, mode: str, channels: int) -> None:
    write_pictures(tmp_path, mode)
    data = images.read(DataConfig(path=str(tmp_path), corpus="digits"))
    assert data.labels == ("cat", "dog") and data.pixels["train"].shape == (32, channels, 4, 6)
    for name, pixels in data.pixels.items():
        assert ((pixels[:, 0, 0, 0] >= 10) | (data.classes[name] == 0)).all()
    counts = {label: sum(int((own == label).sum()) for own in data.classes.values()) for label in (0, 1)}
    assert counts == {0: 20, 1: 20}


def test_batches_are_functions_of_seed_and_index_and_every_example_is_judged_once() -> None:
    task, again = task_of(), task_of()
    pixels, classes = task.batch(3, 5, 7)
    assert pixels.shape == (7, 1, 8, 8) and classes.shape == (7,) and float(pixels.abs().max()) <= 1
    assert all(torch.equal(a, b) for a, b in zip((pixels, classes), again.batch(3, 5, 7), strict=True))
    assert not torch.equal(pixels, task.batch(3, 6, 7)[0])
    judged = torch.cat([classes for _, classes in task.evaluation_batches("test", 64)])
    assert torch.equal(judged, torch.from_numpy(task.data.classes["test"]))
    assert (task.sequence_length, task.uninformed_loss) == (16, pytest.approx(np.log(10)))
    assert task_of(ViTConfig(patch=4)).sequence_length == 4


def test_accuracy_is_counted_and_a_saved_folder_gives_the_shape(tmp_path: Path) -> None:
    task = task_of()
    model = task.build_model(0).eval()
    batches = list(task.evaluation_batches("test", 50))
    with torch.no_grad():
        found = task.metrics(model, batches)
        right = sum(int((model(pixels).argmax(-1) == classes).sum()) for pixels, classes in batches)
    assert found.keys() == {"loss", "accuracy"} and found["accuracy"] == right / 180
    task.save_assets(tmp_path)
    elsewhere = tasks.make(ImageClassificationConfig(), SMALL, DataConfig(path="nowhere"))
    assert {n: p.shape for n, p in elsewhere.load_model(tmp_path).named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }


def test_digits_are_learned() -> None:
    task = task_of(ViTConfig(num_layers=2, num_heads=2, width=32, patch=4, pooling="mean"))
    trainer = Trainer(task, TrainerConfig(iterations=150, batch_size=32), OptimConfig(learning_rate=2e-3), seed=0)
    trainer.rebind((0, 0))
    trainer.train(150)
    assert trainer.metrics("test")["accuracy"] > 0.6  # a guess is right in 0.1


def refused(**data: Any) -> str:
    with pytest.raises(InputError) as caught:
        images.read(DataConfig(**data))
    (line,) = caught.value.lines
    return line


def test_every_mistake_is_one_line(tmp_path: Path) -> None:
    assert "data.corpus = 'python-stdlib': task image_classification reads digits" in refused()
    assert "data.max_chars = 5: is of texts" in refused(corpus="digits", max_chars=5)
    assert "data.hf = 'ptb': is of texts" in refused(corpus="digits", hf="ptb")
    assert "read from a folder" in refused(path=str(tmp_path))
    write_pictures(tmp_path, count=2)
    assert "too few images: none for test" in refused(path=str(tmp_path))
    Image.new("L", (5, 5)).save(tmp_path / "dog" / "zz.png")
    assert "zz.png: (5, 5), the first picture is (4, 6)" in refused(path=str(tmp_path))
    (tmp_path / "cat" / "00.png").write_bytes(b"no picture")
    assert "00.png: unreadable" in refused(path=str(tmp_path))
    write_mnist(tmp_path)
    file = tmp_path / "train-labels-idx1-ubyte"
    for content in (file.read_bytes()[:-1], b"", b"\0\0\x09\x01", b"\0\0\x08\x03\0\0"):
        file.write_bytes(content)
        assert "train-labels-idx1-ubyte: no idx file of bytes" in refused(path=str(tmp_path))
    write_idx(file, np.zeros(3))
    assert "labels of shape (3,)" in refused(path=str(tmp_path))

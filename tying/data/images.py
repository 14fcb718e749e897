"""Labelled images: scikit-learn's digits, files in MNIST's form, or folders of pictures, in three splits."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tying.data.corpora import SPLITS, DataConfig
from tying.errors import InputError

# Names in MNIST's form: the part to train on, and the part to test on; also with .gz.
_IDX = {part: (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")}
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".webp")


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images.

    Attributes:
        name: What people call them.
        labels: All labels; a label's class is its place.
        pixels: Split name to (N, channels, height, width) uint8.
        classes: Split name to (N,) int64.
    """

    name: str
    labels: tuple[str, ...]
    pixels: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]

    @property
    def sha256(self) -> str:
        """Digest of the images, their labels and how they are split."""
        digest = hashlib.sha256("\n".join(self.labels).encode())
        for name in SPLITS:
            digest.update(f"{name} {self.pixels[name].shape}".encode())
            digest.update(self.pixels[name].tobytes() + self.classes[name].tobytes())
        return digest.hexdigest()


def require(config: DataConfig) -> None:
    """Check that the images are there, without reading them.

    Raises:
        InputError: If they are not, or a setting is of texts.
    """
    for name in ("hf", "max_chars", "train_chars"):
        if getattr(config, name) is not None:
            raise InputError(
                f"data.{name} = {getattr(config, name)!r}: is of texts; task image_classification reads images"
            )
    if config.path is None:
        if config.corpus != "digits":
            raise InputError(f"data.corpus = {config.corpus!r}: task image_classification reads digits, or data.path")
        return
    folder = Path(config.path).expanduser()
    if not folder.is_dir() or not (_idx_files(folder) or _pictures(folder)):
        raise InputError(
            f"data.path = {config.path!r}: images are read from a folder of {', '.join(_IDX['train'])} and those of t10k, "
            "or of a folder of pictures for each label"
        )


def read(config: DataConfig) -> LabelledImages:
    """Read labelled images.

    Args:
        config: `path` names a folder: of files in MNIST's form, whose t10k is the test split, or of a folder of pictures
            for each label. Without it, the digits are read. What is not split is shuffled, always in the same order, and
            cut by the fractions.

    Raises:
        InputError: If images are missing, damaged, of different sizes, or too few.
    """
    require(config)
    folder = Path(config.path or "").expanduser()
    if config.path is None:
        made = _cut(config, "digits", tuple("0123456789"), *_digits())
    elif _idx_files(folder):
        made = _of_idx(config, folder)
    else:
        made = _cut(config, str(folder), *_of_pictures(folder))
    empty = [name for name in SPLITS if not len(made.classes[name])]
    if empty or len(made.labels) < 2:
        raise InputError(f"{made.name}: too few images: none for {', '.join(empty) or 'a second label'}")
    return made


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 1,797 pictures of 8 x 8 with 17 shades (Alpaydin & Kaynak 1998), as scikit-learn holds them."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("data.corpus = 'digits': needs scikit-learn: pip install layer-tying[train]") from error
    found = load_digits()
    return (found.images * (255 / 16)).round().astype(np.uint8)[:, None], found.target.astype(np.int64)


def _cut(config: DataConfig, name: str, labels: tuple[str, ...], pixels: np.ndarray, classes: np.ndarray) -> LabelledImages:
    order = np.random.default_rng(0).permutation(len(classes))
    test = round(len(order) * (1 - config.test_fraction))
    reward = round(len(order) * (1 - config.test_fraction - config.reward_fraction))
    rows = {"train": order[:reward], "reward": order[reward:test], "test": order[test:]}
    return LabelledImages(name, labels, {n: pixels[r] for n, r in rows.items()}, {n: classes[r] for n, r in rows.items()})


def _idx_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files in MNIST's form by part; empty if one is missing."""
    found = {
        part: [path for name in names for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        for part, names in _IDX.items()
    }
    return found if all(len(paths) == len(_IDX[part]) for part, paths in found.items()) else {}


def _of_idx(config: DataConfig, folder: Path) -> LabelledImages:
    parts = {part: [_read_idx(path) for path in paths] for part, paths in _idx_files(folder).items()}
    for part, (pixels, classes) in parts.items():
        if pixels.ndim != 3 or classes.shape != pixels.shape[:1] or pixels.shape[1:] != parts["train"][0].shape[1:]:
            raise InputError(f"{folder}: {part} has images of shape {pixels.shape} and labels of shape {classes.shape}")
    pixels, classes = parts["train"]
    order = np.random.default_rng(0).permutation(len(classes))
    reward = round(len(order) * (1 - config.reward_fraction))
    cut = {"train": (pixels[order[:reward]], classes[order[:reward]]), "test": parts["t10k"]}
    cut["reward"] = pixels[order[reward:]], classes[order[reward:]]
    highest = max(int(own.max(initial=0)) for _, own in cut.values())
    return LabelledImages(
        str(folder),
        tuple(map(str, range(highest + 1))),
        {name: own[:, None] for name, (own, _) in cut.items()},
        {name: own.astype(np.int64) for name, (_, own) in cut.items()},
    )


def _read_idx(path: Path) -> np.ndarray:
    """Return the array of bytes in an idx file: 0, 0, 8 (bytes), the number of dimensions, their sizes, the values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: unreadable ({error})") from error
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = np.frombuffer(content[4 : 4 + 4 * rank], ">u4") if rank and len(content) >= 4 + 4 * rank else np.zeros(0, int)
    if not len(shape) or len(content) != 4 + 4 * rank + int(np.prod(shape, dtype=np.int64)):
        raise InputError(f"{path}: no idx file of bytes, or a damaged one")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape.astype(int))


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """Return the pictures in a folder by label, the name of the folder that they are in."""
    found = {
        label.name: sorted(path for path in label.iterdir() if path.suffix.lower() in _PICTURES)
        for label in sorted(folder.iterdir())
        if label.is_dir() and not label.name.startswith(".")
    }
    return {label: paths for label, paths in found.items() if paths}


def _of_pictures(folder: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    from PIL import Image, UnidentifiedImageError

    by_label = _pictures(folder)
    arrays: list[np.ndarray] = []
    classes: list[int] = []
    for number, paths in enumerate(by_label.values()):
        for path in paths:
            try:
                with Image.open(path) as image:
                    arrays.append(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")))
            except (OSError, UnidentifiedImageError) as error:
                raise InputError(f"{path}: unreadable ({error})") from error
            if arrays[-1].shape != arrays[0].shape:
                raise InputError(
                    f"{path}: {arrays[-1].shape}, the first picture is {arrays[0].shape}: make them of one size"
                )
            classes.append(number)
    pixels = np.stack(arrays)
    channels_first = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return tuple(by_label), np.ascontiguousarray(channels_first), np.array(classes, dtype=np.int64)

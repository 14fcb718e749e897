"""Write the table of docs/huggingface.md from the tables of the tests: `python docs/families.py`."""

import re
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
PAGE = _ROOT / "docs" / "huggingface.md"
_HEAD = ("family", "`stack=`: path", "stays with its layer", "gradients", "`share`, `norms`", "save, load", "generate")


def table() -> str:
    """Return the table: a row for every stack of every family that the tests build, and what they check of it."""
    for folder in (_ROOT, _ROOT / "tests" / "tying", _ROOT / "tests" / "tying" / "hf"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    import families
    import hf_models

    import tying.hf

    rows = []
    checked = set(families.FAMILIES)
    for family in hf_models.FAMILIES:
        model = hf_models.build(family)
        stacks = tying.hf.find_stacks(model)
        for name, stack in stacks.items():
            key = f"{family} {name.replace('stage', 'stage ')}" if len(stacks) > 1 else family
            exact = "yes" if key in checked else "-"
            checked.discard(key)
            generates = "yes" if family in hf_models.CAUSAL or family in hf_models.SEQUENCES else "-"
            private = tying.hf.tie(model, stack=name).private_names
            rows.append((family, f"{name}: `{stack.path}`", _private(private), exact, exact, "yes", generates))
    rows += [(name, "-", "-", "yes", "yes", "-", "-") for name in families.FAMILIES if name in checked]
    lines = [_HEAD, ("---",) * len(_HEAD), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def filled(page: str) -> str:
    """Return the page with its table made anew."""
    return re.sub(
        r"(<!-- families -->\n).*?(\n<!-- end -->)", lambda found: found[1] + table() + found[2], page, flags=re.DOTALL
    )


def _private(names: tuple[tuple[str, ...], ...]) -> str:
    """Say which layers have parameters that not all blocks have: "0: relative_attention_bias"."""
    found: dict[str, list[int]] = {}
    for layer, own in enumerate(names):
        if own:
            parts = dict.fromkeys(".".join(name.split(".")[:-1][-2:]) for name in own)
            found.setdefault(", ".join(f"`{part}`" for part in parts), []).append(layer)
    return "; ".join(f"{' '.join(map(str, layers))}: {parts}" for parts, layers in found.items()) or "nothing"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

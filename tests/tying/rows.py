"""Rows of labelled text."""

from pathlib import Path


def write_labelled(path: Path, num_rows: int = 120) -> Path:
    """Write rows whose label is their first letter's case, sorted by label; .tsv or .jsonl."""
    rows = [
        (f"{'Yes' if i * 2 < num_rows else 'no'} row {i}" + " and" * (i % 5), "ab"[i * 2 < num_rows])
        for i in range(num_rows)
    ]
    if path.suffix == ".tsv":
        text = "text\tlabel\n" + "".join(f"{row}\t{label}\n" for row, label in rows)
    else:
        text = "".join(f'{{"text": "{row}", "label": "{label}"}}\n' for row, label in rows)
    path.write_text(text, encoding="utf-8")
    return path

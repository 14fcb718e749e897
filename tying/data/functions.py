"""Functions of the Python standard library's source, labelled by their package: labelled texts that every machine has."""

import ast
from collections.abc import Iterator

from tying.data.corpora import stdlib_files
from tying.errors import InputError

# Packages with hundreds of functions each, of different subjects.
PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml")
_MOST = 240  # functions of a package, so that labels are about as frequent
_LINES = (4, 60)  # shorter ones say nothing of their package


def read() -> list[tuple[str, str]]:
    """Return (source, package) of functions and methods, each text once, in the order of the corpus's files.

    Raises:
        InputError: If this machine has no source of two such packages.
    """
    found: dict[str, dict[str, None]] = {package: {} for package in PACKAGES}
    for path in stdlib_files():
        package = next((part for part in path.parts if part in found), None)
        if package is not None and len(found[package]) < _MOST:
            found[package] |= dict.fromkeys(_functions(path.read_text(encoding="utf-8")))
    rows = [(text, package) for package, texts in found.items() for text in list(texts)[:_MOST]]
    several = {text for text, _ in rows if sum(text in texts for texts in found.values()) > 1}
    rows = [row for row in rows if row[0] not in several]
    if len({package for _, package in rows}) < 2:
        raise InputError("data.corpus = 'python-functions': no source of the standard library here; use data.path")
    return rows


def _functions(source: str) -> Iterator[str]:
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.end_lineno is None:
            continue
        if _LINES[0] <= node.end_lineno - node.lineno + 1 <= _LINES[1]:
            yield "\n".join(line[node.col_offset :] for line in lines[node.lineno - 1 : node.end_lineno])

"""The console of every script: names are shown as they are, whatever brackets and colons stand in them."""

from typing import Any

from rich.console import Console


def make_console(**options: Any) -> Console:
    """Return a console that interprets no markup; the options are those of `rich.console.Console`."""
    return Console(markup=False, emoji=False, highlight=False, **options)

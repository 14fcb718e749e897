"""Progress of work in pieces: a bar in a terminal, a line elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Bars:
    """Shows one piece of work at a time.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.advance: Callable[[int], None] = lambda number: None

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[None]:
        """Show progress while a block works and calls `advance`.

        Args:
            title: The work.
            total: Number of pieces; None: not known.
        """
        if not self.console.is_terminal:
            self.console.print(title, soft_wrap=True)
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(title, total=total)
            self.advance = lambda number: progress.advance(task, number)
            try:
                yield
            finally:
                self.advance = lambda number: None

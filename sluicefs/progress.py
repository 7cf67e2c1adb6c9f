# SPDX-License-Identifier: Apache-2.0
"""Progress of long commands on a terminal: a bar where the end is known, a count where it isn't, nothing in scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sluicefs.output import attended

#: Told what is being done, and how much of it so far.
Tick = Callable[[str, int], None]


@contextmanager
def counting(total: int | None = None) -> Iterator[Tick]:
    """A function to tell about progress; what it drew is gone afterwards. total: the end of each count, if known."""
    if not attended():
        yield lambda what, count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        last = ""

        def tick(what: str, count: int) -> None:
            nonlocal last
            end = None if total is None else max(total, count)
            if what != last:
                bar.reset(task, description=what, total=end)
                last = what
            bar.update(task, completed=count, total=end)

        yield tick

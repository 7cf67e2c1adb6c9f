# SPDX-License-Identifier: Apache-2.0
"""`sluice dump META-URL [FILE]`: all metadata as JSON, or as a binary backup; to a file or to stdout (cli §2.8).

Data stays where it is: a dump and the bucket are a whole volume. Nothing is changed, clients may go on working.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click

from core.config import format_size, mask_url
from core.dump.binary_writer import BackupWriter
from core.dump.files import Output
from core.dump.json_writer import dump_json
from core.dump.scratch_source import ScratchSource
from core.errors import ConfigError
from core.meta import keys as k
from core.meta.format import Format
from core.meta.meta import require_format
from core.meta.records import ROOT
from core.meta.store import RecordStore
from sluicefs.cli import command
from sluicefs.options import meta_argument, option
from sluicefs.output import attended, note, settings, show
from sluicefs.setting_access import record_store
from sluicefs.volume import inner_path, run


@command("dump")
@meta_argument
@click.argument("file", required=False)
@option("--subdir", "--root", "subdir", metavar="PATH", help="Only this directory and what is in it; JSON only.")
@click.option("--binary", is_flag=True, help="A compact binary backup; keeps more, loads faster.")
@click.option("--fast", is_flag=True, help="Scan all records into a temporary file first; quicker over a network.")
@click.option("--keep-secret-key", is_flag=True, help="Leave the credentials of the object store in.")
@click.option("--skip-trash", is_flag=True, help="Leave the trash out; JSON only.")
@option("--threads", type=click.IntRange(1, 256), default=10, help="Directories read at the same time.")
def dump_command(meta_url: str, file: str | None, **options: Any) -> None:
    """Write the metadata of a volume to FILE, or to stdout if there is none or it is "-".

    A name that ends in .gz or .zstd is compressed. The file appears when it is complete.
    """
    if options["binary"] and (options["subdir"] or options["skip_trash"] or options["fast"]):
        raise ConfigError("--binary backs up a whole volume; --subdir, --skip-trash and --fast are for JSON dumps")
    run(_dump(meta_url, file, options))


async def _dump(meta_url: str, file: str | None, options: dict[str, Any]) -> None:
    began = time.monotonic()
    async with record_store(meta_url) as store:
        fmt = await require_format(store, mask_url(meta_url))
        (inodes,) = await store.read(k.counter("totalInodes"))
        if options["binary"]:
            written, size = await _binary(store, fmt, file, options, inodes)
        else:
            written, size = await _json(store, fmt, meta_url, file, options, inodes)
    place = file or "-"
    took = time.monotonic() - began
    if settings.json and place != "-":
        show({"file": place, "bytes": size, "seconds": round(took, 3), **written})
    note(f"volume {fmt.name} is dumped to {'stdout' if place == '-' else place}: {written['entries']} "
         f"{'records' if options['binary'] else 'entries'}, {format_size(size)} in {took:.1f} s")  # fmt: skip


async def _json(
    store: RecordStore, fmt: Format, url: str, file: str | None, options: dict[str, Any], inodes: int
) -> tuple[dict[str, Any], int]:
    root = await _directory(store, options["subdir"]) if options["subdir"] else ROOT
    with ScratchSource() if options["fast"] else nullcontext() as source:
        if source is not None:
            with progress("records read", 0) as tick:
                await source.fill(store, tick)
        with progress("entries dumped", inodes if root == ROOT else 0) as tick:
            async with Output(file) as out:
                done = await dump_json(
                    store, out, fmt=fmt, root=root, keep_secrets=options["keep_secret_key"],
                    skip_trash=options["skip_trash"], threads=options["threads"], source=source, progress=tick,
                )  # fmt: skip
    if done.without_inode:
        note(f"{done.without_inode} entries have no inode record and are left out; if nobody removed files meanwhile, "
             f"`sluice check {mask_url(url)}` tells more")  # fmt: skip
    if done.moved:
        note(f"{done.moved} directories were moved meanwhile; each is in the dump once")
    if done.missing_acls:
        note(f"{done.missing_acls} references to ACL rules that aren't stored are left out; see `sluice check`")
    return done._asdict(), out.size


async def _binary(
    store: RecordStore, fmt: Format, file: str | None, options: dict[str, Any], inodes: int
) -> tuple[dict[str, Any], int]:
    with progress("records dumped", 0) as tick:
        async with Output(file) as out:
            done = await BackupWriter(
                store, out, fmt, keep_secrets=options["keep_secret_key"], progress=tick
            ).write()  # fmt: skip
    if done.foreign_names:
        note(f"{done.foreign_names} extended attributes have names that are no UTF-8: sluice can load this backup, "
             "JuiceFS can't")  # fmt: skip
    return {"entries": sum(done.records.values()), "records": done.records}, out.size


async def _directory(store: RecordStore, path: str) -> int:
    names = [name for name in inner_path(path).split(b"/") if name]
    found = await store.resolve(ROOT, names)
    last = found.steps[-1] if found.steps else None
    if len(found.steps) < len(names):
        raise ConfigError(f"--subdir: {path} doesn't exist; `sluice ls META-URL PATH` shows what there is")
    if last is not None and (last.attr is None or not last.attr.is_dir):
        raise ConfigError(f"--subdir: {path} is no directory")
    return last.entry.ino if last is not None else ROOT


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar, or a count if the end isn't known, where a person looks on."""
    if not attended():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn()]
    if not total:
        columns = [SpinnerColumn(), TextColumn("{task.description}: {task.completed}")]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total or None)
        yield lambda done: bar.update(task, completed=done)

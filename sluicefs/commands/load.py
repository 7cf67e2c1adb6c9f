# SPDX-License-Identifier: Apache-2.0
"""`sluice load META-URL [FILE]`: an empty database becomes the volume of a dump or backup (cli §2.8).

The whole file is verified before anything is written; everything that is wrong with it is listed. Exit status 0: loaded
(or, with --check, nothing is wrong); 1: refused.
"""

from __future__ import annotations

import time
from typing import Any

import click

from core.config import mask_url
from core.dump.files import Input
from core.dump.intake import take_in, with_key
from core.dump.loader import load, require_empty
from core.dump.problems import Problems
from core.dump.reading import Reading
from core.errors import ConfigError
from core.log import hide
from core.meta.format import ENCRYPT_ALGOS, Format
from core.volume import open_record_store
from sluicefs.cli import command
from sluicefs.commands.dump import progress
from sluicefs.options import meta_argument, option
from sluicefs.output import note, report_error, settings, show
from sluicefs.setting_access import record_store
from sluicefs.settings_options import read_key
from sluicefs.volume import run

_SHOWN = 50


@command("load")
@meta_argument
@click.argument("file", required=False)
@click.option("--binary", is_flag=True, default=None, help="Insist on a binary backup (else the file itself tells).")
@option("--threads", type=click.IntRange(1, 256), default=10, help="Commits at the same time.")
@click.option("--lossy", is_flag=True, help="Load what this database can't hold without it, instead of refusing.")
@click.option("--check", "check_only", is_flag=True, help="Verify the file for this database and write nothing.")
@click.option("--stat", is_flag=True, help="Like --check, for any database, and show what the file holds.")
@click.option("--restart", is_flag=True, help="Empty a database in which a load was interrupted, then load.")
@option("--encrypt-rsa-key", type=click.Path(), help="PEM file of the data key; passphrase in JFS_RSA_PASSPHRASE.")
@option("--encrypt-algo", type=click.Choice(ENCRYPT_ALGOS), help="Cipher of blocks, with --encrypt-rsa-key.")
def load_command(meta_url: str, file: str | None, **options: Any) -> int:
    """Fill an empty database from FILE, or from stdin if there is none or it is "-".

    A JSON dump or a binary backup, of JuiceFS or of `sluice dump`, plain or compressed, of any engine.
    """
    if options["encrypt_algo"] and not options["encrypt_rsa_key"]:
        raise ConfigError("--encrypt-algo: it goes with --encrypt-rsa-key")
    # `--stat FILE` needs no database.
    return run(_stat(file or meta_url, options) if options["stat"] else _load(meta_url, file, options))


async def _stat(file: str | None, options: dict[str, Any]) -> int:
    with Input(file) as source, Reading(lossy=options["lossy"]) as reading:
        with progress("inodes read", 0) as tick:
            form = await take_in(source, reading, binary=options["binary"], progress=tick)
        _show(source.name, form, reading, 0.0, 0)
        return _judge(reading.problems, source.name)


async def _load(meta_url: str, file: str | None, options: dict[str, Any]) -> int:
    began = time.monotonic()
    shown = mask_url(meta_url)
    pem = read_key(options["encrypt_rsa_key"])
    hide(pem)
    if options["check_only"]:
        store = open_record_store(meta_url)  # its limits are known without a connection
        with Input(file) as source, Reading(store, lossy=options["lossy"]) as reading:
            with progress("inodes read", 0) as tick:
                form = await take_in(source, reading, binary=options["binary"], progress=tick)
            _show(source.name, form, reading, time.monotonic() - began, 0)
            return _judge(reading.problems, source.name)
    with Input(file) as source:
        async with record_store(meta_url) as store:
            # Before the file is read, so that nobody waits for a refusal; the commits verify it once more.
            await require_empty(store, shown, restart=options["restart"])
            with Reading(store, lossy=options["lossy"]) as reading:
                with progress("inodes read", 0) as tick:
                    form = await take_in(source, reading, binary=options["binary"], progress=tick)
                if code := _judge(reading.problems, source.name):
                    return code
                fmt = _setting(reading, pem, options["encrypt_algo"])
                await store.prepare()
                with progress("records written", 0) as tick:
                    done = await load(store, reading, fmt=fmt, threads=options["threads"], progress=tick)
                _show(source.name, form, reading, time.monotonic() - began, done.records)
                _tell(reading, fmt, shown)
    return 0


def _setting(reading: Reading, pem: str, algorithm: str | None) -> Format:
    assert reading.fmt is not None
    return with_key(reading.fmt, pem, algorithm) if pem else reading.fmt


def _judge(problems: Problems, name: str) -> int:
    """Print what is wrong; 1 if it forbids the load."""
    for problem in problems.notes[:_SHOWN]:
        note(f"note: {problem}")
    if problems.note_count > _SHOWN:
        note(f"… and {problems.note_count - min(_SHOWN, len(problems.notes))} more notes")
    if not problems.error_count:
        return 0
    if settings.json:
        show({"errors": [problem._asdict() for problem in problems.errors], "count": problems.error_count})
    else:
        for problem in problems.errors[:_SHOWN]:
            click.echo(f"  {problem}", err=True)
        if problems.error_count > _SHOWN:
            kinds = ", ".join(f"{count} × {kind}" for kind, count in problems.kinds.most_common(5))
            click.echo(f"  … {problems.error_count} in all: {kinds}", err=True)
    return report_error(
        f"{name} has {problems.error_count} errors and was not loaded; nothing was written. Use another copy,"
        " or correct them in a JSON dump"
    )


def _show(name: str, form: str, reading: Reading, took: float, written: int) -> None:
    fmt = reading.fmt
    tables = {table: reading.scratch.one(f"SELECT COUNT(*) FROM {table}") for table in _COUNTED}  # noqa: S608
    if settings.json:
        show({
            "file": name, "form": form, "volume": fmt.name if fmt else None, "inodes": reading.used_inodes,
            "usedSpace": reading.used_space, "tables": tables, "written": written, "seconds": round(took, 3),
            "errors": reading.problems.error_count, "notes": reading.problems.note_count,
        })  # fmt: skip
        return
    counted = ", ".join(f"{count} {_COUNTED[table]}" for table, count in tables.items() if count)
    note(f"{name}: {form} of volume {fmt.name if fmt else '?'}, {counted}")
    if written:
        note(f"{written} records written in {took:.1f} s")


_COUNTED = {
    "node": "inodes", "entry": "entries", "chunk": "chunks", "symlink": "links", "xattr": "extended attributes",
    "acl": "ACL rules", "quota": "quotas", "delfile": "deleted files", "sustained": "open files",
}  # fmt: skip


def _tell(reading: Reading, fmt: Format, shown: str) -> None:
    missing = [name for name in reading.removed if name != "EncryptKey" or fmt.encrypt_key == "removed"]
    if missing:
        keys = ", ".join(missing)
        way = " (the data key with `sluice load --encrypt-rsa-key`)" if "EncryptKey" in missing else ""
        note(f"the dump has no {keys}; set them with `sluice config {shown}`{way} before the volume is used")
    note(f"volume {fmt.name} is loaded into {shown}; `sluice check {shown}` proves it")

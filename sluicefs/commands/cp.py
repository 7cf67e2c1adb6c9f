# SPDX-License-Identifier: Apache-2.0
"""`sluice cp META-URL SOURCE … TARGET`: copy into, out of, or inside a volume.

A leading colon marks a path inside the volume. A file appears complete or not at all: in the volume by one publish,
on disk by writing beside it and renaming. Copies inside the volume share their data, no byte moves.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from core.chunk.api import FileRange
from core.errors import ConfigError, FsError, MetaError
from core.meta.records import SYMLINK
from core.vfs.filesystem import Found, ImplicitDirs
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import client_options, meta_argument, volume_options
from sluicefs.output import attended, note, show, text_of
from sluicefs.volume import inner_path, join, opened, run

_READ = 1 << 20
_PAGE = 1000


@command("cp")
@meta_argument
@click.argument("paths", nargs=-1, required=True, metavar="SOURCE... TARGET")
@click.option("-r", "-R", "--recursive", is_flag=True, help="Copy folders and what is in them.")
@click.option("-p", "--preserve", is_flag=True, help="Keep permission bits and modification times.")
@client_options
def cp_command(meta_url: str, paths: tuple[str, ...], recursive: bool, preserve: bool, **client: Any) -> None:
    """Copy files. `:/dir/file` is a path inside the volume, anything else a local one, `-` stdin or stdout.

    \b
    sluice cp META-URL report.pdf :/docs/          into the volume
    sluice cp META-URL :/docs/report.pdf .         out of it
    sluice cp META-URL -r :/docs :/backup          inside it, without moving data
    """
    if len(paths) < 2:
        raise click.UsageError("cp needs a source and a target", click.get_current_context())
    sources, target = paths[:-1], paths[-1]
    if not target.startswith(":") and not all(source.startswith(":") for source in sources):
        raise ConfigError("both sides are local; put a colon in front of the path inside the volume, such as :/docs")
    run(_cp(meta_url, list(sources), target, recursive, preserve, volume_options(client)))


async def _cp(
    meta_url: str, sources: list[str], target: str, recursive: bool, preserve: bool, client: dict[str, Any]
) -> None:
    if not target.startswith(":"):
        client["read_only"] = True  # nothing changes in the volume
    async with opened(meta_url, session=not client["read_only"], **client) as volume:
        with _progress() as tick:
            copy = _Copy(volume, recursive, preserve, tick)
            for source in sources:
                if target.startswith(":"):
                    await copy.into(source, inner_path(target), len(sources) > 1 or target.endswith("/"))
                else:
                    await copy.out(inner_path(source), target, len(sources) > 1)
    note(f"copied {copy.files} files, {copy.bytes} bytes")
    if target != "-":
        show({"files": copy.files, "bytes": copy.bytes}, "")


class _Copy:
    """One run of the command: what it does, and what it has done."""

    def __init__(self, volume: Volume, recursive: bool, preserve: bool, tick: Any) -> None:
        self.volume = volume
        self.fs = volume.fs
        self.recursive = recursive
        self.preserve = preserve
        self.tick = tick
        self.files = 0
        self.bytes = 0

    # -- into the volume ---------------------------------------------------------------------------------------------

    async def into(self, source: str, target: bytes, want_folder: bool) -> None:
        name = os.path.basename(source.removeprefix(":").rstrip("/")) or "stdin"
        if await self._is_folder(target):
            if source == "-":
                raise ConfigError(f"{text_of(target)} is a folder; name the file that stdin becomes")
            target = join(target, os.fsencode(name))
        elif want_folder:
            raise FsError(errno.ENOTDIR, f"{text_of(target)}: there is no such folder in the volume")
        if source.startswith(":"):
            await self._inside(inner_path(source), target)
        elif source == "-":
            await self._upload(sys.stdin.buffer, target, None)
        else:
            await self._upload_path(Path(source), target)

    async def _is_folder(self, path: bytes) -> bool:
        try:
            return (await self.fs.lookup(path)).attr.is_dir
        except FsError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise

    async def _upload_path(self, source: Path, target: bytes) -> None:
        waiting = [(source, target)]
        while waiting:
            here, there = waiting.pop()
            info = here.lstat() if here != source else here.stat()
            if stat.S_ISDIR(info.st_mode):
                self._require_recursive(str(here))
                await self._make_folder(there, stat.S_IMODE(info.st_mode) if self.preserve else 0o755)
                waiting.extend((child, join(there, os.fsencode(child.name))) for child in here.iterdir())
            elif stat.S_ISLNK(info.st_mode):
                await self._make_link(there, os.fsencode(here.readlink()))
            elif stat.S_ISREG(info.st_mode):
                with here.open("rb") as file:
                    await self._upload(file, there, info)
            else:
                note(f"{here} is no file, folder or link; left out")

    async def _upload(self, file: BinaryIO, target: bytes, info: os.stat_result | None) -> None:
        writer = self.fs.new_content(info.st_size if info else None)
        try:
            await writer.open()
            while count := await asyncio.to_thread(_read_into, file, writer.buffer()):
                self.tick(count)
                await writer.advance(count)
            content = await writer.finish()
        except BaseException:
            await writer.abort()
            raise
        keep = info if self.preserve else None
        try:
            await self.fs.publish(
                target, content, mode=stat.S_IMODE(keep.st_mode) if keep else 0o644,
                mtime_ns=keep.st_mtime_ns if keep else None, parents=ImplicitDirs(0o755),
            )  # fmt: skip
        except FsError as error:
            # Refused for certain. After a lost connection or an interrupt nobody knows whether the commit took
            # place, and the file may be there; what isn't used is left to `sluice gc`.
            if not isinstance(error, MetaError):
                await writer.abort()
            raise
        self.files += 1
        self.bytes += content.length

    async def _make_folder(self, path: bytes, mode: int) -> None:
        try:
            await self.fs.mkdir(path, mode=mode, parents=ImplicitDirs(0o755))
        except FsError as error:
            if error.errno != errno.EEXIST or not await self._is_folder(path):
                raise

    async def _make_link(self, path: bytes, target: bytes) -> None:
        folder, _, name = path.rpartition(b"/")
        parent = await self.fs.lookup(folder or b"/")
        await self.volume.meta.symlink(parent.ino, name, target)
        self.files += 1

    def _require_recursive(self, path: str) -> None:
        if not self.recursive:
            raise ConfigError(f"{path} is a folder; -r copies folders")

    # -- inside the volume -------------------------------------------------------------------------------------------

    async def _inside(self, source: bytes, target: bytes) -> None:
        if target == source or target.startswith(source.rstrip(b"/") + b"/"):
            raise ConfigError(f"{text_of(source)} can't be copied into itself")
        async for here, relative, found in self._walk(source):
            there = target + relative
            if found.attr.is_dir:
                await self._make_folder(there, found.attr.mode)
            elif found.attr.type == SYMLINK:
                await self._make_link(there, await self.volume.meta.readlink(found.ino))
            elif found.attr.is_file:
                content = await self.fs.clone_content([(found.ino, 0, found.attr.length)])
                await self.fs.publish(
                    there, content, mode=found.attr.mode,
                    mtime_ns=found.attr.mtime_ns if self.preserve else None, parents=ImplicitDirs(0o755),
                )  # fmt: skip
                self.files += 1
                self.bytes += content.length
            else:
                note(f"{text_of(here)} is no file, folder or link; left out")

    async def _walk(self, source: bytes) -> Any:
        """(path, path relative to the source, what is there), folders before what is in them."""
        top = await self.fs.lookup(source)
        if top.attr.is_dir:
            self._require_recursive(":" + text_of(source))
        waiting = [(source, b"", top)]
        while waiting:
            path, relative, found = waiting.pop()
            yield path, relative, found
            if not found.attr.is_dir:
                continue
            after = b""
            while True:
                page = await self.fs.list_dir(found.ino, after, _PAGE)
                waiting.extend(
                    (join(path, e.name), relative + b"/" + e.name, Found(e.ino, e.attr, found.ino))
                    for e in page
                    if e.attr is not None
                )
                if len(page) < _PAGE:
                    break
                after = page[-1].name

    # -- out of the volume -------------------------------------------------------------------------------------------

    async def out(self, source: bytes, target: str, want_folder: bool) -> None:
        if target == "-":
            found = await self.fs.lookup(source)
            await self._download(found, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        base = Path(target)
        if base.is_dir():
            base = base / os.fsdecode(source.rpartition(b"/")[2] or self.volume.format.name.encode())
        elif want_folder:
            raise ConfigError(f"{target} is no folder; make it first")
        folders: list[tuple[Path, Found]] = []
        async for _, relative, found in self._walk(source):
            there = Path(os.fsdecode(os.fsencode(base) + relative))
            if found.attr.is_dir:
                there.mkdir(exist_ok=True)
                folders.append((there, found))
            elif found.attr.type == SYMLINK:
                there.unlink(missing_ok=True)
                there.symlink_to(os.fsdecode(await self.volume.meta.readlink(found.ino)))
                self.files += 1
            elif found.attr.is_file:
                await self._save(found, there)
            else:
                note(f"{there} would be a device, socket or pipe; left out")
        if self.preserve:
            # Last, because writing into a folder changes its time.
            for folder, found in reversed(folders):
                folder.chmod(found.attr.mode & 0o7777)
                os.utime(folder, ns=(found.attr.atime_ns, found.attr.mtime_ns))

    async def _save(self, found: Found, target: Path) -> None:
        handle, temporary = tempfile.mkstemp(prefix=".sluice-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                await self._download(found, file)
            os.chmod(temporary, found.attr.mode & 0o7777 if self.preserve else 0o666 & ~_umask())
            if self.preserve:
                os.utime(temporary, ns=(found.attr.atime_ns, found.attr.mtime_ns))
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    async def _download(self, found: Found, file: BinaryIO) -> None:
        async for piece in self.fs.iter_range(found, 0, found.attr.length):
            if isinstance(piece, FileRange):
                size = piece.length
                await asyncio.to_thread(_copy_range, piece, file)
            else:
                size = len(piece)
                await asyncio.to_thread(file.write, piece)
            self.tick(size)
            self.bytes += size
        self.files += 1


def _read_into(file: BinaryIO, room: memoryview) -> int:
    count: int = file.readinto(room[:_READ])  # type: ignore[attr-defined]
    return count


def _copy_range(piece: FileRange, file: BinaryIO) -> None:
    with open(piece.path, "rb") as source:
        source.seek(piece.offset)
        left = piece.length
        while left:
            data = source.read(min(left, _READ))
            if not data:
                raise FsError(errno.EIO, f"{piece.path} is shorter than it should be; run `sluice fsck`")
            file.write(data)
            left -= len(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _progress() -> Iterator[Any]:
    """A function to call with bytes moved; a bar on the terminal where a person looks on."""
    if not attended():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (SpinnerColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("copy", total=None)
        yield lambda count: bar.advance(task, count)

# SPDX-License-Identifier: Apache-2.0
"""Serve one mount from one process, for development and measurements: `python -m gateways.fuse META-URL MOUNTPOINT`.

The real thing is `sluice mount`, which adds a holder that survives a crash, daemons, log files and all its options.
This process mounts, serves until it is unmounted or gets TERM or INT, and unmounts lazily then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

import msgspec

from core.config import mask_url, parse_size
from core.errors import SluiceError
from core.volume import open_volume
from gateways.fuse.door import Door, DoorOptions
from gateways.fuse.handlers import Ttl
from gateways.fuse.mount import mount, set_read_ahead, unmount
from gateways.fuse.session import Options

log = logging.getLogger("sluice.fuse")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m gateways.fuse", description="Serve one mount from one process.")
    p.add_argument("meta_url", metavar="META-URL")
    p.add_argument("mount_point", metavar="MOUNTPOINT")
    p.add_argument("-o", dest="options", action="append", default=[], metavar="LIST")
    for name in ("attr", "entry", "dir-entry", "negative-entry"):
        p.add_argument(f"--{name}-cache", type=float, default=0.0 if name == "negative-entry" else 1.0, metavar="S")
    for name in ("xattr", "cap", "selinux", "ioctl"):
        p.add_argument(f"--enable-{name}", action="store_true")
    p.add_argument("--subdir", default="")
    p.add_argument("--read-only", action="store_true")
    p.add_argument("--cache-dir", default="")
    p.add_argument("--cache-size", type=int, default=1024, metavar="MIB")
    p.add_argument("--max-fuse-io", default="1M", metavar="SIZE")
    p.add_argument("--max-background", type=int, default=64, metavar="N")
    p.add_argument("--no-passthrough", action="store_true")
    p.add_argument("--no-usage-report", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    p.add_argument("--log-level", default="warning")
    return p


async def serve(args: argparse.Namespace) -> int:
    words = [word for text in args.options for word in text.split(",") if word]
    read_only = args.read_only or "ro" in words
    options = Options(
        max_io=parse_size(args.max_fuse_io, 1),
        max_background=args.max_background,
        read_only=read_only,
        allow_other=os.geteuid() == 0 or "allow_other" in words,
        writeback_cache="writeback_cache" in words,
        async_dio="async_dio" in words,
        passthrough=not args.no_passthrough and os.geteuid() == 0,
    )
    point = os.path.realpath(args.mount_point)
    volume = await open_volume(
        args.meta_url, session=False, read_only=read_only, cache_dir=args.cache_dir or None,
        cache_size=args.cache_size << 20,
    )  # fmt: skip
    try:
        options = msgspec.structs.replace(options, posix_acl=volume.format.enable_acl)
        posix = DoorOptions(mount_point=point).posix
        posix = msgspec.structs.replace(
            posix, xattr=args.enable_xattr, cap=args.enable_cap, selinux=args.enable_selinux, ioctl=args.enable_ioctl,
            acl=volume.format.enable_acl, read_only=read_only,
        )  # fmt: skip
        door = Door(
            volume,
            DoorOptions(
                mount_point=point,
                posix=posix,
                ttl=Ttl(args.attr_cache, args.entry_cache, args.dir_entry_cache, args.negative_entry_cache),
                session=options,
                subdir=os.fsencode(args.subdir),
                passthrough=options.passthrough,
            ),
        )
        rest = [word for word in words if word not in ("writeback_cache", "async_dio", "ro", "allow_other", "debug")]
        fd = mount(point, f"SluiceFS:{volume.format.name}", options=[*options.mount_options(), *rest])
        try:
            await _until_ended(door, fd, point, options)
        finally:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(unmount, point, lazy=True)
    finally:
        await volume.close()
    return 0


async def _until_ended(door: Door, fd: int, point: str, options: Options) -> None:
    await door.start(fd)
    await asyncio.to_thread(set_read_ahead, point, options.max_readahead)
    log.info("%s is mounted at %s", mask_url(point), point)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ended = asyncio.ensure_future(door.wait())
    asked = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((ended, asked), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():  # requests of those who still use it are served until the kernel has let go
            await asyncio.to_thread(unmount, point, lazy=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), 5)
    finally:
        asked.cancel()
        ended.cancel()
        await door.stop()


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        if args.loop == "uvloop":
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(serve(args))
        return asyncio.run(serve(args))
    except (SluiceError, OSError) as e:
        print(f"error: {getattr(e, 'strerror', None) or e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

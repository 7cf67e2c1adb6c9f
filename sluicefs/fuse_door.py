# SPDX-License-Identifier: Apache-2.0
"""From the options of a mount to a door that serves: what `mount` and `serve --mount` have in common."""

from __future__ import annotations

import asyncio
import glob
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from core.config import Address, parse_address
from core.errors import ConfigError, ObjectError
from core.meta.format import Format
from core.object.open import prove
from core.vfs.posix.config import PosixConfig
from core.volume import Volume, open_objects, open_volume
from gateways.fuse import mount as mounting
from gateways.fuse.door import Door, DoorOptions
from gateways.fuse.handlers import Ttl
from gateways.fuse.holder import runtime
from gateways.fuse.pyfuse3_backend import require_pyfuse3
from gateways.fuse.session import Options
from sluicefs.fuse_options import KernelOptions, may_allow_other, parse_labels, parse_o, parse_owner, parse_umask
from sluicefs.options import volume_options
from sluicefs.setting_access import metadata

log = logging.getLogger("sluice.fuse")

_DEFAULT_METRICS = "127.0.0.1:9567"
_LEAST_IO = 4096
_LARGEST_IO = 16 << 20


class Wish(NamedTuple):
    """A mount as its user asked for it, checked. volume: keywords of `open_volume`."""

    meta_url: str
    mount_point: str
    kernel: KernelOptions
    door: DoorOptions
    volume: dict[str, Any]
    write_log: int
    metrics: Address | None
    metrics_given: bool
    labels: dict[str, str]
    check_storage: bool

    def source(self, name: str) -> str:
        """What /proc/mounts shows in front."""
        return self.kernel.fsname or f"{'JuiceFS' if self.kernel.subtype == 'juicefs' else 'SluiceFS'}:{name}"

    def mount_options(self) -> list[str]:
        """For mount(2). As root neither nosuid nor nodev unless asked for, as on a disk; fusermount3 adds both."""
        ours = self.door.session.mount_options()
        return [*ours, *(o for o in self.kernel.mount if o not in ours)]

    def identity(self, fmt: Format) -> dict[str, Any]:
        """What a process that takes this mount over must agree with: the kernel has been told."""
        return {
            "volume": fmt.uuid, "mount_options": self.mount_options(), "subtype": self.kernel.subtype,
            "session": msgspec.to_builtins(self.door.session), "xattr": self.door.posix.any_xattr,
            "subdir": self.door.subdir.decode(errors="backslashreplace"), "fuse_backend": self.door.backend,
        }  # fmt: skip


def make_wish(meta_url: str, mount_point: str, fmt: Format, given: dict[str, Any]) -> Wish:
    """given: values of `fuse_options.mount_options`. ConfigError names the option."""
    options = dict(given)
    kernel = parse_o(options.pop("o_options"))
    backend = options.pop("fuse_backend")
    if backend == "pyfuse3":
        require_pyfuse3()  # before anything is mounted
    read_only = bool(options["read_only"]) or kernel.read_only
    options["read_only"] = read_only
    posix = _posix(options, fmt, read_only)
    shown = {name: value for name, value in options.items() if value is not None}
    size = options.pop("max_fuse_io")
    if not _LEAST_IO <= size <= _LARGEST_IO:
        raise ConfigError("--max-fuse-io: it must be between 4K and 16M")
    session = Options(
        max_io=size, read_only=read_only, allow_other=os.geteuid() == 0 or "allow_other" in kernel.mount,
        default_permissions=not posix.check, posix_acl=posix.acl, writeback_cache=kernel.writeback_cache,
        async_dio=kernel.async_dio, passthrough=options["passthrough"],
    )  # fmt: skip
    if "allow_other" in kernel.mount and not may_allow_other():
        raise ConfigError("-o allow_other: only root may do that, or everybody if /etc/fuse.conf says user_allow_other")
    door = DoorOptions(
        mount_point=mount_point, posix=posix, session=session, shown=shown,
        ttl=Ttl(*(float(options.pop(name)) for name in
                  ("attr_cache", "entry_cache", "dir_entry_cache", "negative_entry_cache"))),
        subdir=os.fsencode(options.pop("subdir") or ""), readdir_cache=options.pop("readdir_cache"),
        passthrough=options.pop("passthrough"), patience_s=options.pop("meta_patience"),
        heartbeat_s=round(options["heartbeat"]), jobs=not options["no_bgjob"],
        backup_meta_s=options.pop("backup_meta"), backend=backend,
    )  # fmt: skip
    metrics_text = options.pop("metrics")
    metrics = None if metrics_text in ("", "off", "none") else parse_address(metrics_text, option="--metrics")
    wish = {
        "write_log": max(options.pop("write_log"), 8 << 20), "metrics": metrics,
        "metrics_given": metrics_text != _DEFAULT_METRICS, "labels": parse_labels(options.pop("custom_labels")),
        "check_storage": options.pop("check_storage"),
    }  # fmt: skip
    volume = volume_options(options, door=True)
    volume.pop("heartbeat_s", None)
    volume.pop("jobs", None)
    return Wish(meta_url, mount_point, kernel, door, volume, **wish)


def _posix(options: dict[str, Any], fmt: Format, read_only: bool) -> PosixConfig:
    all_squash = parse_owner(options.pop("all_squash"), "--all-squash")
    return PosixConfig(
        xattr=options.pop("enable_xattr") or fmt.enable_acl, cap=options.pop("enable_cap"),
        selinux=options.pop("enable_selinux"), acl=fmt.enable_acl, ioctl=options.pop("enable_ioctl"),
        root_squash=parse_owner(options.pop("root_squash"), "--root-squash"), all_squash=all_squash,
        umask=parse_umask(options.pop("umask")), check=all_squash is not None,
        hide_internal=options.pop("hide_internal"), prefix_internal=options.pop("prefix_internal"),
        fast_statfs=options.pop("fast_statfs"), read_only=read_only,
    )  # fmt: skip


async def look_up(meta_url: str) -> Format:
    """The volume's setting; fails with a clear error before anything is mounted."""
    async with metadata(meta_url) as meta:
        return meta.format


async def prove_store(fmt: Format, wish: Wish) -> None:
    """The object store can be reached (and with --check-storage: written and read)."""
    objects = open_objects(fmt, storage=wish.volume.get("storage"), bucket=wish.volume.get("bucket"))
    try:
        if wish.check_storage:
            await prove(objects)
    except ObjectError as e:
        raise ConfigError(f"--check-storage: {e}") from e
    finally:
        await objects.close()


def with_copies(wish: Wish, uuid: str) -> DoorOptions:
    """The door's options with a folder for what the kernel reads by itself: beside the cache, or in /var/tmp. It is
    named after the mount, for the process that takes over."""
    found = mounting.find_mount(wish.mount_point)
    if not wish.door.session.passthrough or found is None:
        return wish.door
    name = f"passed-{found.device.replace(':', '.')}"
    first = str(wish.volume.get("cache_dir") or "").partition(":")[0]
    if glob.has_magic(first) or first == "memory":
        first = ""
    try:
        base = os.path.join(first, uuid) if first else runtime.private(f"/var/tmp/sluicefs-{os.geteuid()}")  # noqa: S108
        os.makedirs(os.path.join(base, name), mode=0o700, exist_ok=True)
    except OSError as e:
        log.warning("passthrough is off: no folder for its copies: %s", e.strerror)
        return msgspec.structs.replace(wish.door, passthrough=False)
    return msgspec.structs.replace(wish.door, copies_in=os.path.join(base, name))


def opener(wish: Wish) -> Callable[[], Any]:
    """Opens the volume; its session is the door's affair."""
    return lambda: open_volume(wish.meta_url, session=False, mount_point=wish.mount_point, **wish.volume)


class Attendance:
    """What runs beside a door: metrics over HTTP."""

    def __init__(self, door: Door, wish: Wish) -> None:
        self._door = door
        self._wish = wish
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        address = self._wish.metrics
        if address is None:
            return
        from sluicefs.metrics_server import serve_metrics

        try:
            self._server = await serve_metrics(
                address, self._door.internal.metrics, self._labels(), fall_back=not self._wish.metrics_given
            )
        except OSError as e:
            log.error("--metrics %s: %s; the mount goes on without", address.authority, e.strerror or e)
            return
        host, port = self._server.sockets[0].getsockname()[:2]
        self._door.internal.options = {**self._door.internal.options, "metrics": f"{host}:{port}"}

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def _labels(self) -> dict[str, str]:
        from core.meta.version import CLIENT_VERSION

        return {
            "mp": self._wish.mount_point, "vol_name": self._door.volume.format.name,
            "juicefs_version": CLIENT_VERSION, "instance": os.uname().nodename, **self._wish.labels,
        }  # fmt: skip


async def attend(door: Door, wish: Wish) -> Attendance:
    attendance = Attendance(door, wish)
    await attendance.start()
    return attendance


class LocalMount:
    """A mount that this very process serves (`sluice serve --mount`): without a holder, for as long as it lives."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.volume: Volume
        self.door: Door

    async def start(self) -> None:
        wish = self.wish
        self.volume = await opener(wish)()
        try:
            fd = mounting.mount(
                wish.mount_point, wish.source(self.volume.format.name), wish.kernel.subtype, wish.mount_options()
            )
            self.door = Door(self.volume, wish.door)
            try:
                await self.door.start(fd)
            except BaseException:
                await asyncio.to_thread(_unmount_quietly, wish.mount_point)
                raise
        except BaseException:
            await self.volume.close()
            raise

    async def stop(self) -> None:
        await asyncio.to_thread(_unmount_quietly, self.wish.mount_point)
        await self.door.stop()
        await self.volume.close()


def _unmount_quietly(path: str) -> None:
    try:
        mounting.unmount(path, lazy=True)
    except OSError as e:
        log.debug("%s", e)

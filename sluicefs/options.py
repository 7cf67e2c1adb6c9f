# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share: value types, metadata address, client options. One definition each.

A value comes from the flag, else from the environment (`SLUICE_CACHE_SIZE` for `--cache-size`), else from the file
named by `--config` or SLUICE_CONFIG (TOML: `cache-size = "1G"`, or the same in a table named after the command).
Source: cli §1.2 (values), §2.1, §4.1 (names and defaults), §8 (environment).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from core.chunk.cacheoptions import CacheOptions, default_cache_dir
from core.config import Address, parse_address, parse_bandwidth, parse_duration, parse_size
from core.errors import ConfigError
from core.log import LEVELS, hide
from sluicefs.output import settings

F = TypeVar("F", bound=Callable[..., Any])


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # generic only in newer versions of click
    _ParamType = click.ParamType


class _Parsed(_ParamType):
    """A value type made of a parser that raises ConfigError."""

    def __init__(self, name: str, parser: Callable[[str], Any]) -> None:
        self.name = name
        self._parser = parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            return value
        try:
            return self._parser(str(value))
        except ConfigError as error:
            # click puts the option's name in front; our parsers do it too.
            self.fail(str(error).partition(": ")[2] or str(error), param, ctx)


def size(unit: int = 1) -> _ParamType:
    return _Parsed("size", lambda text: parse_size(text, unit))


DURATION = _Parsed("duration", parse_duration)
BANDWIDTH = _Parsed("Mbps", parse_bandwidth)


class _AddressType(_ParamType):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return parse_address(str(value))
        except ConfigError as error:
            self.fail(str(error).partition(": ")[2], param, ctx)


ADDRESS = _AddressType()


def _checksum_level(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value in ("none", "full", "shrink", "extend"):
        return value
    from sluicefs.output import note

    note(f"--verify-cache-checksum: there is no level {value!r}; `extend` it is")  # as JuiceFS does (data-path §12.3)
    return "extend"


def option(*names: str, **rest: Any) -> Callable[[F], F]:
    """`click.option` that also reads SLUICE_<NAME>."""
    longest = max((name for part in names for name in part.split("/")), key=len)
    rest.setdefault("envvar", "SLUICE_" + longest.lstrip("-").upper().replace("-", "_"))
    rest.setdefault("show_default", rest.get("default") not in (None, "") and not rest.get("is_flag"))
    return click.option(*names, **rest)


def chain(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which help shows them."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


meta_argument = click.argument("meta_url", metavar="META-URL")

#: Where data lies, if elsewhere than the volume's setting says.
store_override = chain(
    option("--storage", metavar="TYPE", help="Object store type to use instead of the volume's own."),
    option("--bucket", metavar="URL", help="Bucket or folder to use instead of the volume's own."),
)


def _octal(text: str) -> int:
    if not text.strip() or set(text.strip()) - set("01234567"):
        raise ConfigError(f"mode: {text!r} is no octal number such as 0600")
    return int(text, 8)


def _ratio(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"ratio: {text!r} is no number such as 0.1") from None


def _interval(text: str) -> float:
    """A duration; negative ones mean never."""
    return -1 if text.strip().startswith("-") else parse_duration(text)


#: Blocks on local disks or in memory, and writes that are acknowledged there.
cache_options = chain(
    option("--cache-dir", metavar="PATHS", help="Folders for cached blocks, separated by colons, or `memory` (default "
           "of doors: /var/jfsCache or ~/.juicefs/cache, none where objects are local files; else none)."),
    option("--cache-size", type=size(1 << 20), help="Space in all of them (MiB; default 100G, in memory 100M); 0 is no "
           "cache."),
    option("--cache-items", type=click.IntRange(0), default=0, help="Most blocks; 0: what the disk has room for."),
    option("--cache-mode", type=_Parsed("octal", _octal), default="0600", help="Mode of cached files."),
    option("--free-space-ratio", type=_Parsed("ratio", _ratio), default="0.1", help="Share of the disk to leave free."),
    option("--cache-partial-only", is_flag=True, help="Cache only blocks of which parts are read."),
    option("--cache-large-write", is_flag=True, help="Cache also full blocks that are written."),
    option("--verify-cache-checksum", metavar="LEVEL", default="extend", callback=_checksum_level,
           help="How reads of cached blocks are verified: none, full, shrink, extend."),
    option("--cache-eviction", type=click.Choice(["2-random", "lru", "none"]), default="2-random",
           help="Which blocks go when there is no room."),
    option("--cache-scan-interval", type=_Parsed("duration", _interval), default="1h",
           help="Between looks at the folders; 0: only at the start, negative: never."),
    option("--cache-expire", type=DURATION, default="0s", help="Drop blocks that weren't used for so long; 0: never."),
    option("--writeback", is_flag=True, help="Acknowledge writes when they are on the local disk, upload later."),
    option("--writeback-threshold-size", type=size(1), default="0", help="Only blocks below this size; 0: all."),
    option("--upload-delay", type=DURATION, default="0s", help="Wait so long before uploading (with --writeback)."),
    option("--upload-hours", metavar="FROM,TO", help="Upload only in these hours of the day, such as 22,6."),
    option("--max-stage-write", type=click.IntRange(0), default=1000,
           help="Writes to the local disk at once; beyond it blocks are uploaded at once."),
)  # fmt: skip

#: Caches and transfers of one client; `volume_options` gives them to `open_volume`.
client_options = chain(
    store_override,
    option("--buffer-size", type=size(1 << 20), default="300M", help="Memory for reading and writing (MiB)."),
    option("--max-readahead", type=size(1 << 20), help="Ahead of one reader (MiB; default: what the link needs)."),
    option("--prefetch", type=click.IntRange(0), default=1, help="Blocks fetched whole at a time after partial reads."),
    cache_options,
    option("--max-uploads", type=click.IntRange(1), default=20, help="Uploads at the same time."),
    option("--max-downloads", type=click.IntRange(1), default=200, help="Downloads at the same time."),
    option("--get-timeout", type=DURATION, default="60s", help="For one download."),
    option("--put-timeout", type=DURATION, default="60s", help="For one upload."),
    option("--io-retries", type=click.IntRange(0), default=10, help="Before a read or write fails."),
    option("--upload-limit", type=BANDWIDTH, help="Mbps; 0 is none (default: the volume's)."),
    option("--download-limit", type=BANDWIDTH, help="Mbps; 0 is none (default: the volume's)."),
    option("--heartbeat", type=DURATION, default="12s", help="How often this client reports; 1s to 10m."),
    option("--no-bgjob", is_flag=True, help="No background work from this client."),
    option("--backup-meta", type=DURATION, default="1h", help="Between automatic backups of metadata; 0 is never."),
    option("--scrub", type=size(), default="0", help="Bytes per second to read back and prove in the background."),
    option("--read-only", is_flag=True, help="Refuse every change."),
)

#: Option -> parameter of `open_volume`, where the names differ.
_RENAMED = {"get_timeout": "get_timeout_s", "put_timeout": "put_timeout_s"}


#: Option -> field of `CacheOptions`.
_CACHE = {
    "cache_mode": "mode", "cache_items": "items", "free_space_ratio": "free_ratio",
    "cache_partial_only": "partial_only", "cache_large_write": "large_write", "verify_cache_checksum": "verify",
    "cache_eviction": "eviction", "cache_scan_interval": "scan_interval_s", "cache_expire": "expire_s",
    "prefetch": "prefetch", "writeback": "writeback", "writeback_threshold_size": "writeback_threshold",
    "upload_delay": "upload_delay_s", "upload_hours": "upload_hours", "max_stage_write": "max_stage_write",
}  # fmt: skip


def volume_options(options: dict[str, Any], *, door: bool = False) -> dict[str, Any]:
    """What `client_options` collected, in the words of `open_volume`. door: of something that serves for long, which
    has a disk cache unless it is told otherwise."""
    found = {_RENAMED.get(name, name): value for name, value in options.items() if value is not None}
    if "no_bgjob" in found:
        found["jobs"] = not found.pop("no_bgjob")
    if "heartbeat" in found:
        seconds = found.pop("heartbeat")
        if not 1 <= seconds <= 600:
            raise ConfigError("--heartbeat: it must be between 1s and 10m")
        found["heartbeat_s"] = round(seconds)
    if 0 < found.get("backup_meta", 0) < 300:
        raise ConfigError("--backup-meta: at least 5m, or 0 for none")
    cache = {_CACHE[name]: found.pop(name) for name in list(found) if name in _CACHE}
    if cache:
        wanted = found["cache"] = CacheOptions(**cache)
        wanted.validate()
        if door and not found.get("cache_dir"):
            found["cache_dir"] = default_cache_dir()
            found["cache_local"] = False
    return found


def read_credentials(access_key: str | None) -> dict[str, str]:
    """Credentials of an object store: ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, which then leave the environment, so that
    no child process inherits them. Secret options have been moved there by `privacy` already."""
    found = {
        "access_key": access_key or os.environ.pop("ACCESS_KEY", ""),
        "secret_key": os.environ.pop("SECRET_KEY", ""),
        "session_token": os.environ.pop("SESSION_TOKEN", ""),
    }
    os.environ.pop("ACCESS_KEY", None)
    hide(found["secret_key"], found["session_token"])
    return found


# -- global options, accepted before and after the command's name ---------------------------------------------------


def _set(attribute: str, value: Any = None) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, param: click.Parameter, given: Any) -> None:
        if given not in (None, False):
            setattr(settings, attribute, given if value is None else value)

    return callback


def _load_file(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    if not path:
        return
    try:
        with Path(path).open("rb") as file:
            document = tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    general = {_key(k): v for k, v in document.items() if not isinstance(v, dict)}
    from sluicefs.cli import COMMANDS

    own = {name: {_key(k): v for k, v in (document.get(name) or {}).items()} for name in COMMANDS}
    if isinstance(ctx.command, click.Group):
        ctx.default_map = {name: {**general, **own[name]} for name in COMMANDS}
    else:
        ctx.default_map = {**general, **own.get(ctx.info_name or "", {})}


def _key(name: str) -> str:
    return name.replace("-", "_")


def global_options() -> list[click.Option]:
    """Fresh option objects for the group and for every command."""

    def made(*names: str, callback: Any, **rest: Any) -> click.Option:
        return click.Option([*names], expose_value=False, callback=callback, is_eager=True, **rest)

    levels = click.Choice(list(LEVELS), case_sensitive=False)
    return [
        made("--output", callback=_set("output"), type=click.Choice(["text", "json"]), envvar="SLUICE_OUTPUT",
             help="Form of what is printed."),
        made("--config", "config_file", callback=_load_file, metavar="FILE", envvar="SLUICE_CONFIG",
             help="Read options from a file."),
        made("-v", "--verbose", "--debug", callback=_set("level", "debug"), is_flag=True,
             help="Log more; show tracebacks."),
        made("--trace", callback=_set("level", "trace"), is_flag=True, help="Log everything."),
        made("-q", "--quiet", callback=_set("level", "warn"), is_flag=True, help="Only warnings and errors."),
        made("--log-level", callback=_set("level"), type=levels, envvar="SLUICE_LOG_LEVEL", hidden=True),
        made("--log-id", callback=_set("log_id"), metavar="TEXT", envvar="SLUICE_LOG_ID",
             help="Put this in front of each log line; `random` picks one."),
        made("--log-format", callback=_set("log_format"), type=click.Choice(["text", "json"]),
             envvar="SLUICE_LOG_FORMAT", help="Form of log lines."),
        made("--log", callback=_set("log_file"), metavar="FILE", envvar="SLUICE_LOG", help="Write the log to a file."),
        made("--no-color", callback=_set("no_color"), is_flag=True, help="No colours."),
    ]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""`sluice serve --webdav ADDRESS[,OPTIONS]`: the WebDAV door in the processes of the S3 door.

OPTIONS are those of `sluice webdav`, written as in an fstab line: `:9007,prefix=/dav,read-only-user=guest,gzip`. What
belongs to the process or to the volume's client comes from `serve` itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from core.config import parse_address
from core.errors import ConfigError
from sluicefs.webdav_door import WebDavDoor, split_webdav, webdav_options, webdav_server_options

#: Options of `sluice webdav` that a door may have for itself here.
_OWN_SERVER = frozenset({"cert_file", "key_file", "access_log", "max_connections"})


@webdav_options
@webdav_server_options
def _options(**options: Any) -> dict[str, Any]:
    return options


def webdav_beside(text: str, server: Mapping[str, Any], client: Mapping[str, Any]) -> WebDavDoor:
    """text: ADDRESS[,OPTIONS]. server, client: options of `serve`. Raises ConfigError."""
    where, _, rest = text.partition(",")
    address = parse_address(where, option="--webdav")
    command = click.Command("webdav", params=_params(), callback=lambda **options: options)
    try:
        with command.make_context("--webdav", list(_arguments(rest, command)), auto_envvar_prefix=None) as ctx:
            options = dict(ctx.params)
    except click.UsageError as error:
        raise ConfigError(f"--webdav {where},…: {error.format_message()}") from None
    rules, own, _ = split_webdav(options)
    own["cert_file"] = own["cert_file"] or server["tls_cert"]
    own["key_file"] = own["key_file"] or server["tls_key"]
    own["grace"] = server["grace"]
    read_only = bool(client.get("read_only"))
    return WebDavDoor(address, rules, own, workers=server["workers"], read_only=read_only)


def _params() -> list[click.Parameter]:
    made: list[click.Parameter] = list(reversed(getattr(_options, "__click_params__", [])))
    left_out = {"workers", "grace", "mountpoint"}
    # They keep their places in what `split_webdav` takes apart, but nobody sets them here.
    return [_silent(p) if p.name in left_out else p for p in made]


def _silent(param: click.Parameter) -> click.Parameter:
    return click.Option([f"--serve-{param.name}", param.name or ""], default=None, hidden=True)


def _arguments(text: str, command: click.Command) -> Iterator[str]:
    known = {name: p for p in command.params for name in p.opts}
    for word in filter(None, text.split(",")):
        name, equals, value = word.partition("=")
        option = "--" + name.strip()
        param = known.get(option)
        if param is None or name.startswith("serve-"):
            raise ConfigError(f"--webdav: there is no option {name!r}; `sluice webdav --help` lists them")
        if isinstance(param, click.Option) and param.is_flag:
            if equals:
                raise ConfigError(f"--webdav: {name!r} takes no value")
            yield option
        elif not equals:
            raise ConfigError(f"--webdav: {name!r} needs a value, as in {name}=…")
        else:
            yield f"{option}={value}"

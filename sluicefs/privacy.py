# SPDX-License-Identifier: Apache-2.0
"""Keep passwords out of `ps`: a command line that holds one is started again without it.

Pure Python can't rewrite the memory that `ps` shows, but it can replace the process image: the secret moves into an
environment variable, which only the same user and root can read, and the program starts once more with the rest.
Source: cli §1.2 (password in address), §2.1 (credentials from ACCESS_KEY, SECRET_KEY, SESSION_TOKEN), §8.
"""

from __future__ import annotations

import os
import re
import sys

#: Options whose value is a secret, and the variable that may hold it instead.
_OPTIONS = {"--secret-key": "SECRET_KEY", "--session-token": "SESSION_TOKEN"}
# A metadata address with a password: SCHEME://user:password@… or, for Redis, without a scheme. Without one, a slash
# makes it a path, such as `:/dir/a:b@c` of `cp`.
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://[^:@/?#\s]*:[^?\s]+|[^:@/?#\s]*:[^?/\s]+)@[^@\s]+", re.IGNORECASE)


def strip_secrets(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments without secrets, and the environment variables that carry them instead."""
    from core.config import url_password, without_password

    kept: list[str] = []
    moved: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--":
            kept.append(argument)
            kept.extend(rest)
        elif name in _OPTIONS:
            if not equals:
                following = next(rest, None)
                if following is None:
                    kept.append(argument)  # the parser will say that the value is missing
                    continue
                value = following
            moved[_OPTIONS[name]] = value
        elif "META_PASSWORD" not in moved and not argument.startswith("-") and _ADDRESS.fullmatch(argument):
            password = url_password(argument)
            if password is None:
                kept.append(argument)
            else:
                moved["META_PASSWORD"] = password
                kept.append(without_password(argument))
        else:
            kept.append(argument)
    return kept, moved


def conceal(arguments: list[str]) -> None:
    """Start this program again if its arguments hold secrets; returns only if there is nothing to hide."""
    kept, moved = strip_secrets(arguments)
    if not moved:
        return
    environment = {**os.environ, **moved}
    if "META_PASSWORD" in moved:
        # The address wins over the environment (format §4.1), so nothing older may stand in front of it.
        environment.pop("REDIS_PASSWORD", None)
    os.execve(sys.executable, [sys.executable, "-m", "sluicefs", *kept], environment)  # noqa: S606

# SPDX-License-Identifier: Apache-2.0
"""What the suite asks of an S3 client, and how command-line clients are run.

A client is driven as its users drive it, with settings only for the endpoint and the keys: no retries are turned off
and no checksum is turned on, because the defaults are what meets the gateway. Source: spec s3 §20, §22 point 2.
"""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from tests.gateways.s3.gateway_process import ACCESS_KEY, REGION, SECRET_KEY
from tests.servers.process import CACHE

#: Whatever the machine's user has configured for a client must not decide a test.
_KEPT = ("PATH", "LANG", "TMPDIR")


class ClientFailed(AssertionError):
    """A client ended with an error; what it said is the message."""


class Client(ABC):
    """One S3 client and one endpoint. Paths are of local files; keys are objects' names as S3 sees them."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.home = home

    @abstractmethod
    def put(self, path: Path, bucket: str, key: str) -> None: ...

    @abstractmethod
    def get(self, bucket: str, key: str, path: Path) -> None: ...

    @abstractmethod
    def put_described(self, path: Path, bucket: str, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        """`put` with a content type and user metadata."""

    @abstractmethod
    def put_multipart(self, path: Path, bucket: str, key: str) -> None:
        """In parts, whatever the client's threshold is."""

    @abstractmethod
    def copy(self, bucket: str, key: str, target: str) -> None:
        """On the server's side, within one bucket."""

    @abstractmethod
    def names(self, bucket: str, prefix: str) -> list[str]:
        """What is directly below a prefix that ends in `/` (or is empty): `name` for objects, `name/` for folders."""

    @abstractmethod
    def delete_tree(self, bucket: str, prefix: str) -> None: ...

    @abstractmethod
    def put_tree(self, folder: Path, bucket: str, prefix: str) -> None: ...

    @abstractmethod
    def get_tree(self, bucket: str, prefix: str, folder: Path) -> None: ...


class CommandClient(Client):
    """A client that is a program."""

    program: str

    @property
    def env(self) -> dict[str, str]:
        return {}

    def run(self, *arguments: str | Path, timeout_s: float = 240) -> str:
        """Run the program; its standard output. Raises `ClientFailed` with everything it printed."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        done = subprocess.run(
            [self.program, *map(str, arguments)],
            capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, cwd=self.home,
            env={"LANG": "C.UTF-8", **kept, **aws_environment(self.home), **self.env},
        )  # fmt: skip
        out = done.stdout.decode(errors="surrogateescape")
        if done.returncode:
            said = (out + done.stderr.decode(errors="replace"))[-4000:]
            raise ClientFailed(f"{Path(self.program).name} {' '.join(map(str, arguments))}: {done.returncode}\n{said}")
        return out


def aws_environment(home: Path) -> dict[str, str]:
    """Keys and region as AWS's own tools read them, and a home without settings."""
    return {
        "HOME": str(home),
        "PATH": f"{CACHE}/bin:{os.environ.get('PATH', '')}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

# SPDX-License-Identifier: Apache-2.0
"""Golden volumes: real volumes made by JuiceFS 1.4.1, unpacked and started on demand, and what a reader must see.

    with golden("redis-lz4", tmp_path) as volume:
        ... open volume.meta_url with bucket=volume.bucket ...
        for entry in volume.manifest(): ...

Each archive is one folder: `volume.json`, the database, `objects/`, `manifest.jsonl`, `trash.jsonl`, `dump.json`,
`status.json` … (tests/golden/README.md). The bucket in the stored setting is a path that doesn't exist; override it.
"""

from __future__ import annotations

import base64
import errno
import importlib
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers.process import Server, require

ARCHIVES = Path(__file__).parent / "archives"

#: How the manifest calls node types, and the stored type numbers (metadata-format §1.3).
TYPES = {"file": 1, "dir": 2, "symlink": 3, "fifo": 4, "block": 5, "char": 6, "socket": 7}


class Unreadable(NamedTuple):
    """The original could not return this value: it failed with `errno`."""

    errno: int


class Expected(NamedTuple):
    """One line of a manifest. None: not stated for this type."""

    path: bytes
    type: int
    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime_ns: int
    ctime_ns: int
    size: int | None
    rdev: int | None
    target: bytes | None
    sha256: str | None
    xattrs: dict[bytes, bytes | Unreadable]


class GoldenVolume(NamedTuple):
    """An unpacked volume whose database can be reached."""

    name: str
    folder: Path
    info: dict[str, Any]
    meta_url: str

    @property
    def bucket(self) -> str:
        """What to give as bucket instead of the stored one."""
        return f"{self.folder}/{self.info['bucket_template']}"

    @property
    def passphrase(self) -> str | None:
        return self.info.get("passphrase")

    def manifest(self, name: str = "manifest.jsonl") -> Iterator[Expected]:
        """What a reader must see; `trash.jsonl` is the same for the trash (volumes without trash have none)."""
        path = self.folder / name
        if path.exists():
            with path.open() as lines:
                for line in lines:
                    yield _expected(json.loads(line))

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


def names(engine: str | None = None) -> list[str]:
    """All golden volumes, or those of one engine (sqlite, redis, postgres, mariadb, etcd, tikv)."""
    found = sorted(path.name.removesuffix(".tar.xz") for path in ARCHIVES.glob("*.tar.xz"))
    return [name for name in found if engine is None or name.split("-")[0] == engine]


def unpack(name: str, folder: Path) -> Path:
    """Unpack an archive below `folder`; returns the volume's own folder."""
    with tarfile.open(ARCHIVES / f"{name}.tar.xz", "r:xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


def setting_text(folder: Path) -> bytes:
    """The setting document byte for byte, read without any server from a file-based database."""
    info = json.loads((folder / "volume.json").read_text())
    path = folder / info["meta"]["file"]
    if path.suffix == ".db":
        with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as db:
            (value,) = db.execute("SELECT value FROM jfs_setting WHERE name = 'format'").fetchone()
        db.close()
        return value.encode() if isinstance(value, str) else bytes(value)
    if path.name == "meta.kv.jsonl":
        with path.open() as lines:
            for line in lines:
                record = json.loads(line)
                if base64.b64decode(record["key"]).endswith(b"\xfdsetting"):
                    return base64.b64decode(record["value"])
    if path.suffix == ".sql":
        return _setting_from_dump(path.read_bytes())
    raise LookupError(f"{folder.name}: no setting found in {path.name}")


@contextmanager
def golden(name: str, folder: Path) -> Iterator[GoldenVolume]:
    """Unpack and, where the engine needs one, start its server."""
    home = unpack(name, folder)
    info = json.loads((home / "volume.json").read_text())
    start = _ENGINES.get(info["meta"]["engine"])
    if start is None:
        raise LookupError(f"{name}: tests can't start {info['meta']['engine']} yet")
    with start(home, info) as meta_url:
        yield GoldenVolume(name, home, info, meta_url)


@contextmanager
def _sqlite(home: Path, info: dict[str, Any]) -> Iterator[str]:
    yield f"sqlite3://{home / info['meta']['file']}"


@contextmanager
def _redis(home: Path, info: dict[str, Any]) -> Iterator[str]:
    program = require("redis-server", "apt-get install redis-server")

    def command(port: int, folder: Path) -> list[str]:
        shutil.copyfile(home / info["meta"]["file"], folder / "dump.rdb")
        return [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]

    with Server(command, name="redis-server") as server:
        yield f"redis://127.0.0.1:{server.port}/{info['meta'].get('database', 1)}"


def _start(module: str) -> Callable[[Path, dict[str, Any]], AbstractContextManager[str]]:
    """`start` of a module that is imported when a volume of its engine is asked for."""

    def start(home: Path, info: dict[str, Any]) -> AbstractContextManager[str]:
        made: AbstractContextManager[str] = importlib.import_module(f"tests.golden.{module}").start(home, info)
        return made

    return start


_ENGINES: dict[str, Callable[[Path, dict[str, Any]], AbstractContextManager[str]]] = {
    "sqlite3": _sqlite,
    "redis": _redis,
    "postgres": _start("engine_postgres"),
    "mysql": _start("engine_mariadb"),
    "etcd": _start("engine_etcd"),
    "tikv": _start("engine_tikv"),
}


def _unreadable(error: int | str) -> Unreadable:
    """Manifests give a number or a name."""
    return Unreadable(error if isinstance(error, int) else getattr(errno, error))


def _text(value: Any) -> bytes:
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()


def _expected(line: dict[str, Any]) -> Expected:
    return Expected(
        path=b"/" + _text(line["path"]) if line["path"] != "" else b"/",
        type=TYPES[line["type"]],
        ino=line["ino"],
        mode=int(line["mode"], 8),
        uid=line["uid"],
        gid=line["gid"],
        nlink=line["nlink"],
        mtime_ns=line["mtime_ns"],
        ctime_ns=line["ctime_ns"],
        size=line.get("size"),
        rdev=line.get("rdev"),
        target=_text(line["target"]) if "target" in line else None,
        sha256=line.get("sha256"),
        xattrs={
            name.encode(): _unreadable(value["error"]) if isinstance(value, dict) and "error" in value else _text(value)
            for name, value in line.get("xattrs", {}).items()
        },
    )


def _setting_from_dump(dump: bytes) -> bytes:
    """The document out of `pg_dump` (COPY rows, backslash escapes) or `mariadb-dump` (INSERT, quoted text)."""
    copy = dump.find(b"COPY public.jfs_setting (name, value) FROM stdin;\n")
    if copy >= 0:
        row = dump[dump.index(b"\n", copy) + 1 :].split(b"\n", 1)[0]
        value = row.split(b"\t", 1)[1]
        return value.replace(b"\\\\", b"\0").replace(b"\\n", b"\n").replace(b"\0", b"\\")
    start = dump.index(b"('format',", dump.index(b"INSERT INTO `jfs_setting` VALUES")) + len(b"('format',")
    value = dump[start : dump.index(b");\n", start)].strip()
    if value.startswith(b"0x"):
        return bytes.fromhex(value[2:].decode())
    plain = value.strip(b"'").replace(b"\\\\", b"\0").replace(b"\\n", b"\n").replace(b'\\"', b'"').replace(b"\\'", b"'")
    return plain.replace(b"\0", b"\\")

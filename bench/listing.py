# SPDX-License-Identifier: Apache-2.0
"""Listing one directory of 100,000 keys through the gateway: time of the first page, of later pages, memory.

`python -m bench.listing [META-URL …]`, by default on SQLite. A Redis database given here is wiped first.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
from statistics import median

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from core.meta.format import new_format
from core.vfs.filesystem import Content, ImplicitDirs
from core.volume import format_volume, open_record_store, open_volume

KEYS = 100_000
TASKS = 64
ACCESS_KEY, SECRET_KEY = "bench-access", "bench-secret-key"
ETAG = b"d41d8cd98f00b204e9800998ecf8427e"


async def fill(meta_url: str, folder: str) -> None:
    store = open_record_store(meta_url)
    await store.open()
    await store.wipe()
    await store.close()
    await format_volume(meta_url, new_format("listing", bucket=f"{folder}/objects/"), force=True)
    volume = await open_volume(meta_url, heartbeat_s=0)
    await volume.fs.mkdir(b"/bench")
    numbers = iter(range(KEYS))

    async def work() -> None:
        for n in numbers:
            await volume.fs.publish(
                b"/bench/big/key-%06d" % n, Content(0, {}), xattrs={b"s3-etag": ETAG}, parents=ImplicitDirs()
            )

    await asyncio.gather(*(work() for _ in range(TASKS)))
    await volume.close()


def get(port: int, connection: http.client.HTTPConnection, path: str) -> tuple[bytes, float]:
    request = AWSRequest("GET", f"http://127.0.0.1:{port}{path}")
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    started = time.perf_counter()
    connection.request("GET", path, headers=dict(request.headers))
    body = connection.getresponse().read()
    return body, time.perf_counter() - started


def walk(port: int, query: str) -> tuple[int, list[float]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    token, times, keys = "", list[float](), 0
    while True:
        more = f"continuation-token={urllib.parse.quote(token, safe='')}&" if token else ""
        body, seconds = get(port, connection, f"/bench?{more}{query}")
        times.append(seconds * 1000)
        keys += body.count(b"<Key>")
        found = re.search(rb"<NextContinuationToken>([^<]+)", body)
        if not found:
            return keys, times
        token = found[1].decode()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        for meta_url in sys.argv[1:] or [f"sqlite3://{folder}/meta.db"]:
            asyncio.run(fill(meta_url, folder))
            environ = {**os.environ, "SLUICE_ACCESS_KEY": ACCESS_KEY, "SLUICE_SECRET_KEY": SECRET_KEY}
            command = [sys.executable, "-m", "sluicefs", "--output", "json", "gateway", meta_url, "127.0.0.1:0"]
            with subprocess.Popen(
                [*command, "--multi-buckets", "--workers", "1"], env=environ, stdout=subprocess.PIPE, text=True
            ) as gateway:
                assert gateway.stdout is not None
                text = ""
                while '"endpoint"' not in text:
                    text += gateway.stdout.readline() or sys.exit("the gateway did not start")
                port = int(re.findall(r'"endpoint": *"http://127\.0\.0\.1:(\d+)', text)[0])
                print(f"{meta_url.partition(':')[0]}, {KEYS:,} keys in one directory, pages of 1,000")
                for query in ("list-type=2&prefix=big%2F", "list-type=2&prefix=big%2F&delimiter=%2F"):
                    keys, times = walk(port, query)
                    later = times[1:]
                    print(
                        f"  {query:40} {keys:,} keys; first {times[0]:.1f} ms,"
                        f" later median {median(later):.1f}, max {max(later):.1f} ms"
                    )
                with open(f"/proc/{gateway.pid}/status") as status:
                    print("  peak RSS", *[line.split()[1] for line in status if line.startswith("VmHWM")], "KiB")
                gateway.terminate()


if __name__ == "__main__":
    main()

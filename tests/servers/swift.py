# SPDX-License-Identifier: Apache-2.0
"""A real OpenStack Swift for tests: proxy, account, container and object server, one device, native API and S3 API.

Debian: swift-proxy swift-account swift-container swift-object memcached (2.30), by tests/tools/install-heavy.sh. The
servers refuse to run as root, so root hands the folder to uid 65534. Heavy: it starts in ten seconds.
"""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from tests.servers.postgres import NOBODY, as_server
from tests.servers.process import accepts, free_port, missing, require, wait_for

HINT = "tests/tools/install-heavy.sh installs it (Debian: swift-proxy swift-account swift-container swift-object)"
USER = "test:tester"
KEY = "testing"
KINDS = ("account", "container", "object")

_STORAGE = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
replication_server = false
"""

_PROXY = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache bulk tempurl s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:bulk]
use = egg:swift#bulk
[filter:tempurl]
use = egg:swift#tempurl
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
token_life = {token_life_s}
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


class SwiftServer:
    """`with SwiftServer() as server`: `bucket(container)` for storage `swift`, `endpoint` for its S3 API.

    `kill` stops the proxy as a crash would; `start_proxy` brings it back. `forget_tokens` makes all tokens invalid.
    """

    def __init__(self, *, token_life_s: int = 86400) -> None:
        self._programs = {kind: require(f"swift-{kind}-server", HINT) for kind in (*KINDS, "proxy")}
        self._builder = require("swift-ring-builder", HINT)
        self._memcached = require("memcached", HINT)
        if os.geteuid() == 0:
            require("setpriv", "apt-get install util-linux")
        if not Path("/etc/swift/swift.conf").exists():
            missing("/etc/swift/swift.conf", HINT)
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-test-"))
        self.ports = {name: free_port() for name in (*KINDS, "proxy", "memcached")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token_life_s = token_life_s

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def bucket(self, container: str) -> str:
        return f"http://{container}.127.0.0.1:{self.ports['proxy']}"

    def __enter__(self) -> SwiftServer:
        user = pwd.getpwuid(NOBODY).pw_name if os.geteuid() == 0 else getpass.getuser()
        values = {"folder": self.folder, "user": user, "token_life_s": self._token_life_s}
        (self.folder / "devices" / "d1").mkdir(parents=True)
        for kind in KINDS:
            builder = str(self.folder / f"{kind}.builder")
            for arguments in (
                ["create", "4", "1", "0"],
                ["add", "--region", "1", "--zone", "1", "--ip", "127.0.0.1", "--port", str(self.ports[kind]),
                 "--device", "d1", "--weight", "100"],
                ["rebalance"],
            ):  # fmt: skip
                subprocess.run([self._builder, builder, *arguments], check=True, capture_output=True)
            text = _STORAGE.format(kind=kind, port=self.ports[kind], **values)
            (self.folder / f"{kind}.conf").write_text(text)
        text = _PROXY.format(port=self.ports["proxy"], memcached=self.ports["memcached"], **values)
        (self.folder / "proxy.conf").write_text(text)
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        try:
            self.forget_tokens()
            for kind in KINDS:
                self._run(kind, self._programs[kind], str(self.folder / f"{kind}.conf"))
            self.start_proxy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self._processes):
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                as_server(*command), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder,
                env={**os.environ, "HOME": str(self.folder)},
            )  # fmt: skip

        def ready() -> bool:
            if self._processes[name].poll() is not None:
                text = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"Swift's {name} server ended at start:\n{text}")
            return accepts(self.ports[name])

        wait_for(ready, timeout_s=60, what=f"Swift's {name} server")

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def forget_tokens(self) -> None:
        """Tokens live in memcached only."""
        self._end("memcached")
        self._run("memcached", self._memcached, "-l", "127.0.0.1", "-p", str(self.ports["memcached"]), "-m", "16")

    def kill(self) -> None:
        self._end("proxy")

    def start_proxy(self) -> None:
        self._run("proxy", self._programs["proxy"], str(self.folder / "proxy.conf"))
        wait_for(self._healthy, timeout_s=60, what="Swift's proxy answering")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthcheck", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

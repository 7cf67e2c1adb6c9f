# SPDX-License-Identifier: Apache-2.0
"""A real Ceph cluster for tests: one monitor, manager and OSD in memory, and the RADOS gateway in front (S3).

Debian: ceph-mon ceph-osd ceph-mgr radosgw ceph-common (16.2), by tests/tools/install-heavy.sh. Everything is made by
hand in a temporary folder: keys, monitor map, users. Heavy: it starts in a quarter of a minute.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.servers.process import accepts, free_port, require, wait_for

HINT = "tests/tools/install-heavy.sh installs it (Debian: ceph-mon ceph-osd ceph-mgr radosgw ceph-common)"
ACCESS_KEY = "sluice-test"
SECRET_KEY = "sluice-test-secret"

_CONF = """[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {folder}/keyring
mon_data = {folder}/mon
mgr_data = {folder}/mgr
osd_data = {folder}/osd
rgw_data = {folder}/rgw
run_dir = {folder}
admin_socket = {folder}/$name.$pid.asok
log_to_file = false
log_to_stderr = true
err_to_stderr = true
mon_cluster_log_to_file = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = 4294967296
mgr_module_path = {folder}/no-modules
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_run_sync_thread = false
rgw_enable_usage_log = false
"""


class CephServer:
    """`with CephServer() as server`: `endpoint` is the gateway. `kill` and `start_gateway` are about the gateway."""

    def __init__(self) -> None:
        names = ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
        self._programs = {name: require(name, HINT) for name in names}
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-test-"))
        self.port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> CephServer:
        fsid, v1, v2 = str(uuid.uuid4()), free_port(), free_port()
        (self.folder / "conf").write_text(
            _CONF.format(folder=self.folder, fsid=fsid, v1=v1, v2=v2, port=self.port)
        )  # fmt: skip
        for name in ("mon", "mgr", "osd", "rgw", "no-modules"):
            (self.folder / name).mkdir()
        keyring = str(self.folder / "keyring")
        self._call("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        everything = [part for what in ("mon", "osd", "mgr", "mds") for part in ("--cap", what, "allow *")]
        for name in ("client.admin", "mgr.x", "osd.0"):
            self._call("ceph-authtool", keyring, "--gen-key", "-n", name, *everything)
        monitors = str(self.folder / "monmap")
        place = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
        self._call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", place, monitors)
        try:
            self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
            self._run("ceph-mon", "-i", "a", ready=lambda: accepts(v1))
            self._run("ceph-mgr", "-i", "x")
            ident = str(uuid.uuid4())
            self._ceph("osd", "new", ident)
            self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", ident)
            self._run("ceph-osd", "-i", "0", ready=lambda: "1 up" in self._ceph("osd", "stat"))
            self.start_gateway()
            self._call(
                "radosgw-admin", "user", "create", "--uid", "test", "--display-name", "test", "--access-key",
                ACCESS_KEY, "--secret", SECRET_KEY,
            )  # fmt: skip
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self._processes):
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_gateway(self) -> None:
        self._run("radosgw", "-n", "client.admin", ready=lambda: accepts(self.port))

    def kill(self) -> None:
        self._end("radosgw")

    def _call(self, program: str, *arguments: str) -> str:
        command = [self._programs[program], "-c", str(self.folder / "conf"), *arguments]
        if program in ("ceph-authtool", "monmaptool"):
            command = [self._programs[program], *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.folder)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout

    def _ceph(self, *arguments: str) -> str:
        return self._call("ceph", "--connect-timeout", "30", *arguments)

    def _run(self, program: str, *arguments: str, ready: Callable[[], bool] = lambda: True) -> None:
        with open(self.folder / f"{program}.log", "ab") as log:
            process = subprocess.Popen(
                [self._programs[program], "-f", "-c", str(self.folder / "conf"), *arguments],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder,
            )  # fmt: skip
        self._processes[program] = process

        def check() -> bool:
            if process.poll() is not None:
                text = (self.folder / f"{program}.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{program} ended at start:\n{text}")
            return ready()

        wait_for(check, timeout_s=90, what=program)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

# SPDX-License-Identifier: Apache-2.0
"""A real HDFS for tests: one name node and one data node on free ports.

Hadoop 3.3.6 from Maven's jars, by tests/tools/install-heavy.sh; needs Java. Heavy: it starts in eight seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.process import CACHE, accepts, free_port, missing, require, wait_for

HINT = "tests/tools/install-heavy.sh fetches it (needs Java and Maven)"
NAME_NODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATA_NODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
SHELL = "org.apache.hadoop.fs.FsShell"
#: Java 17 closes what Hadoop 3.3 looks into.
_OPENS = ["--add-opens", "java.base/java.lang=ALL-UNNAMED"]


class HDFSServer:
    """`with HDFSServer() as server`: `bucket(base)`; `shell(...)` is `hdfs dfs`; `kill` and `start` the name node.

    permissions: whether owners and modes of files count.
    """

    def __init__(self, *, permissions: bool = False) -> None:
        self._java = require("java", HINT)
        self._jars = CACHE / "hadoop" / "lib"
        if not self._jars.is_dir():
            missing("Hadoop", HINT)
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-test-"))
        self.port = free_port()
        self._http, self._data = free_port(), [free_port() for _ in range(3)]
        self._permissions = permissions
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def bucket(self, base: str) -> str:
        return f"hdfs://127.0.0.1:{self.port}/{base}"

    def __enter__(self) -> HDFSServer:
        settings = {
            "fs.defaultFS": f"hdfs://127.0.0.1:{self.port}",
            "hadoop.tmp.dir": f"{self.folder}/tmp",
            "dfs.namenode.name.dir": f"file://{self.folder}/name",
            "dfs.namenode.http-address": f"127.0.0.1:{self._http}",
            "dfs.namenode.fs-limits.min-block-size": "1024",
            "dfs.namenode.safemode.extension": "0",
            "dfs.namenode.safemode.min.datanodes": "1",
            "dfs.datanode.data.dir": f"file://{self.folder}/data",
            "dfs.datanode.address": f"127.0.0.1:{self._data[0]}",
            "dfs.datanode.http.address": f"127.0.0.1:{self._data[1]}",
            "dfs.datanode.ipc.address": f"127.0.0.1:{self._data[2]}",
            "dfs.heartbeat.interval": "1",
            "dfs.replication": "1",
            "dfs.permissions.enabled": str(self._permissions).lower(),
        }
        conf = self.folder / "conf"
        conf.mkdir()
        rows = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in settings.items())
        for name in ("core-site.xml", "hdfs-site.xml"):
            (conf / name).write_text(f"<configuration>{rows}</configuration>")
        try:
            subprocess.run(
                self._command(NAME_NODE, "-format", "-nonInteractive"), check=True, capture_output=True, env=self._env
            )
            self.start()
            self._run("data", DATA_NODE)
            wait_for(self._serves, timeout_s=90, what="HDFS leaving its safe mode")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self._processes):
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _env(self) -> dict[str, str]:
        return {**os.environ, "HADOOP_USER_NAME": "hdfs"}

    def _command(self, main: str, *arguments: str) -> list[str]:
        path = f"{self.folder}/conf:{self._jars}/*"
        return [self._java, "-Xmx256m", "-XX:+UseSerialGC", *_OPENS, "-cp", path, main, *arguments]

    def _run(self, name: str, main: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                self._command(main), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._env
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def start(self) -> None:
        self._run("name", NAME_NODE)

        def ready() -> bool:
            if self._processes["name"].poll() is not None:
                text = (self.folder / "name.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the name node ended at start:\n{text}")
            return accepts(self.port)

        wait_for(ready, timeout_s=60, what="the name node")

    def kill(self) -> None:
        self._end("name")

    def _serves(self) -> bool:
        """A file can be written: the data node has reported and the safe mode is over."""
        done = subprocess.run(
            self._command(SHELL, "-touchz", "/.ready"), capture_output=True, env=self._env, check=False
        )
        return done.returncode == 0

    def shell(self, *arguments: str) -> str:
        """What `hdfs dfs …` prints; it must succeed."""
        done = subprocess.run(self._command(SHELL, *arguments), capture_output=True, env=self._env, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

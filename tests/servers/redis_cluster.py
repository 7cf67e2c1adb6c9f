# SPDX-License-Identifier: Apache-2.0
"""A real Redis Cluster for tests: three masters on one machine, with or without a replica each.

Debian: redis-server (7.0). Made by `redis-cli --cluster create`; a node is "failing" after a second of silence.
"""

from __future__ import annotations

import subprocess
from types import TracebackType

from core.meta.stores.redis.discovery import slot_of
from tests.servers.process import Server, require, wait_for
from tests.servers.redis import HINT, PASSWORD, RedisServer

NODE_TIMEOUT_MS = 1000


class ClusterNode(RedisServer):
    """One node; it serves what the cluster gives it."""

    def __init__(self) -> None:
        super().__init__(
            "--masterauth", PASSWORD, "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
            cluster=True,
        )  # fmt: skip

    def start(self) -> None:
        Server.start(self)

    @property
    def ident(self) -> str:
        return self.cli("CLUSTER", "MYID")


class RedisCluster:
    """`with RedisCluster() as cluster: cluster.url(db)`. The seeds in the URL are the first two nodes."""

    def __init__(self, *, replicas: int = 0) -> None:
        self.replicas = replicas
        self.nodes = [ClusterNode() for _ in range(3 * (1 + replicas))]

    def __enter__(self) -> RedisCluster:
        for node in self.nodes:
            node.start()
        addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
        self._cli("create", *addresses, "--cluster-replicas", str(self.replicas), "--cluster-yes")
        wait_for(self.complete, what="the cluster")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.__exit__(kind, value, trace)

    def complete(self) -> bool:
        """Does every living node know that every slot is served, and does every replica follow?"""
        living = [node for node in self.nodes if node.process]
        return all("cluster_state:ok" in node.cli("CLUSTER", "INFO") for node in living) and all(
            "role:master" in (text := node.cli("INFO", "replication")) or "master_link_status:up" in text
            for node in living
        )

    def url(self, db: int = 0) -> str:
        seeds = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis://{self.nodes[0]._user}{seeds}/{db}"

    def owner(self, db: int = 0) -> ClusterNode:
        """The node that serves the slot of a volume."""
        asked = next(node for node in self.nodes if node.process)
        # "id ip:port@bus flags master … state ranges": only who serves slots has ranges.
        slot = slot_of(db)
        for line in asked.cli("CLUSTER", "NODES").splitlines():
            _, address, flags, *_ = line.split()
            for part in line.split()[8:]:
                first, _, last = part.partition("-")
                if first.isdecimal() and int(first) <= slot <= int(last or first) and "fail" not in flags.split(","):
                    return next(node for node in self.nodes if f":{node.port}@" in address)
        raise AssertionError(f"nobody serves slot {slot}")

    def _cli(self, *args: str) -> str:
        command = [require("redis-cli", HINT), "-a", PASSWORD, "--no-auth-warning", "--cluster", *args]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # -- moving a slot, step by step -----------------------------------------------------------------------------

    def begin_move(self, db: int, target: ClusterNode) -> None:
        """From now on keys of the volume may be on either node."""
        source, slot = self.owner(db), str(slot_of(db))
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ident)
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ident)

    def move_keys(self, db: int, target: ClusterNode, count: int) -> int:
        """Move at most `count` keys; returns how many."""
        source = self.owner(db)
        keys = source.cli("CLUSTER", "GETKEYSINSLOT", str(slot_of(db)), str(count)).split()
        if keys:
            source.cli("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "AUTH", PASSWORD, "KEYS", *keys)
        return len(keys)

    def end_move(self, db: int, target: ClusterNode) -> None:
        source, slot = self.owner(db), str(slot_of(db))
        for node in [target, source, *self.nodes]:
            if node.process and "role:master" in node.cli("INFO", "replication"):
                node.cli("CLUSTER", "SETSLOT", slot, "NODE", target.ident)

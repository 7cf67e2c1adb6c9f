# SPDX-License-Identifier: Apache-2.0
"""Counters of one door, shared by its workers, rendered for Prometheus by any of them.

Each worker adds to cells of its own in memory that the parent mapped before it forked; whoever is scraped sums over
all workers. Cells outlive their worker, so a restart never makes a counter go back. One request costs about 0.7 µs:
prometheus_client's own multi-process files cost several µs per counter, so it only renders here.

    sluice_s3_requests_total{op,status}   sluice_s3_request_seconds{op} (histogram)   sluice_s3_in_flight_requests
    sluice_s3_received_bytes_total{op}    sluice_s3_sent_bytes_total{op}    sluice_s3_connections
    sluice_s3_worker_starts_total        (s3 is the door; webdav counts methods as operations)
Source: design §7; names are our own.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

#: Upper bounds in seconds: from a cached HEAD to a 5 GiB upload.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)

# Cells of 8 bytes. Region of a worker: head, then SERIES records.
# head:   0 in flight | 1 connections | 2 starts | 3 records in use | 4..7 free
# record: 0..7 key ("op status", ASCII, zero padded) | 8 requests | 9 bytes received | 10 bytes sent
#         | 11 seconds (double) | 12.. requests per bucket, the last one +Inf
_HEAD = 8
_IN_FLIGHT, _CONNECTIONS, _STARTS, _USED = range(4)
_KEY = 8
_RECORD = _KEY + 4 + len(BUCKETS) + 1
#: Operations times statuses; an S3 gateway has about 80 operations and few statuses each. The last one takes overflow.
SERIES = 512
_REGION = _HEAD + SERIES * _RECORD
_OVERFLOW = b"Other 0"


class Metrics:
    """The shared memory. Make it before forking; `worker(i)` is the writing side, `render` the reading one."""

    def __init__(self, workers: int = 1, door: str = "s3") -> None:
        self._name = f"sluice_{door}"
        self._workers = workers
        self._memory = mmap.mmap(-1, workers * _REGION * 8)  # anonymous and shared
        self._counts = memoryview(self._memory).cast("Q")
        self._seconds = memoryview(self._memory).cast("d")

    def worker(self, index: int) -> WorkerMetrics:
        return WorkerMetrics(self._counts, self._seconds, index * _REGION)

    def gone(self, index: int) -> None:
        """A worker died: what it had in flight is over."""
        base = index * _REGION
        self._counts[base + _IN_FLIGHT] = self._counts[base + _CONNECTIONS] = 0

    def render(self, extra: Iterable[CollectorRegistry] = ()) -> bytes:
        """Prometheus text of all workers, followed by other registries of this process."""
        registry = CollectorRegistry()
        registry.register(self)
        return b"".join([generate_latest(registry), *[generate_latest(other) for other in extra]])

    def collect(self) -> Iterator[Metric]:
        """The prometheus_client collector protocol."""
        requests: dict[tuple[str, str], int] = defaultdict(int)
        received: dict[str, int] = defaultdict(int)
        sent: dict[str, int] = defaultdict(int)
        seconds: dict[str, float] = defaultdict(float)
        buckets: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 1))
        cells = self._counts
        heads = [0, 0, 0]
        for worker in range(self._workers):
            base = worker * _REGION
            for cell in (_IN_FLIGHT, _CONNECTIONS, _STARTS):
                heads[cell] += cells[base + cell]
            for number in range(cells[base + _USED]):
                at = base + _HEAD + number * _RECORD
                key = bytes(cells[at : at + _KEY]).rstrip(b"\0").decode("ascii", "replace")
                op, _, status = key.rpartition(" ")
                at += _KEY
                requests[op, status] += cells[at]
                received[op] += cells[at + 1]
                sent[op] += cells[at + 2]
                seconds[op] += self._seconds[at + 3]
                totals = buckets[op]
                for i in range(len(BUCKETS) + 1):
                    totals[i] += cells[at + 4 + i]

        name = self._name
        family: Metric = CounterMetricFamily(f"{name}_requests", "Requests answered.", labels=["op", "status"])
        for (op, status), value in sorted(requests.items()):
            family.add_metric([op, status], value)  # type: ignore[attr-defined]
        yield family
        yield _per_op(f"{name}_received_bytes", "Bytes of request bodies.", received)
        yield _per_op(f"{name}_sent_bytes", "Bytes of response bodies.", sent)
        histogram = HistogramMetricFamily(f"{name}_request_seconds", "Time to answer a request.", labels=["op"])
        for op in sorted(buckets):
            running, points = 0, []
            for bound, value in zip([*map(str, BUCKETS), "+Inf"], buckets[op], strict=True):
                running += value
                points.append((bound, running))
            histogram.add_metric([op], points, seconds[op])
        yield histogram
        yield GaugeMetricFamily(f"{name}_in_flight_requests", "Requests being served.", heads[_IN_FLIGHT])
        yield GaugeMetricFamily(f"{name}_connections", "Open connections.", heads[_CONNECTIONS])
        yield CounterMetricFamily(f"{name}_worker_starts", "Worker processes started.", heads[_STARTS])


class WorkerMetrics:
    """The writing side of one worker. Not for threads: call it on the loop."""

    def __init__(self, counts: memoryview[int], seconds: memoryview[float], base: int) -> None:
        self._counts = counts
        self._seconds = seconds
        self._base = base
        self._operations: dict[str, Operation] = {}
        self._known: dict[bytes, int] = {}
        for number in range(counts[base + _USED]):  # what a predecessor left
            at = base + _HEAD + number * _RECORD
            self._known[bytes(counts[at : at + _KEY]).rstrip(b"\0")] = at + _KEY
        counts[base + _IN_FLIGHT] = counts[base + _CONNECTIONS] = 0
        counts[base + _STARTS] += 1

    def operation(self, name: str) -> Operation:
        """The counters of one operation; keep it where the operation is defined."""
        found = self._operations.get(name)
        if found is None:
            found = self._operations[name] = Operation(self, name)
        return found

    def started(self) -> None:
        """A request is being served; pair it with `finished`."""
        self._counts[self._base + _IN_FLIGHT] += 1

    def finished(self) -> None:
        self._counts[self._base + _IN_FLIGHT] -= 1

    def set_connections(self, number: int) -> None:
        self._counts[self._base + _CONNECTIONS] = number

    def _record(self, name: str, status: int) -> int:
        """Cell number of the counters for an operation and a status."""
        key = f"{name} {status}".encode("ascii", "replace")
        if len(key) > _KEY * 8:
            key = f"{name[: _KEY * 8 - 4]} {status}".encode("ascii", "replace")
        at = self._known.get(key)
        if at is not None:
            return at
        used = self._counts[self._base + _USED]
        if used >= SERIES - 1:
            key = _OVERFLOW
            if key in self._known:
                return self._known[key]
        at = self._base + _HEAD + used * _RECORD
        self._counts[at : at + _KEY] = memoryview(key.ljust(_KEY * 8, b"\0")).cast("Q")
        self._counts[self._base + _USED] = used + 1  # last: readers look no further than this
        self._known[key] = at + _KEY
        return at + _KEY


class Operation:
    """Counters of one operation, one record per status, looked up once."""

    __slots__ = ("_by_status", "_counts", "_name", "_owner", "_seconds")

    def __init__(self, owner: WorkerMetrics, name: str) -> None:
        self._owner = owner
        self._name = name
        self._counts = owner._counts
        self._seconds = owner._seconds
        self._by_status: dict[int, int] = {}

    def observe(self, status: int, seconds: float, received: int = 0, sent: int = 0) -> None:
        at = self._by_status.get(status)
        if at is None:
            at = self._by_status[status] = self._owner._record(self._name, status)
        counts = self._counts
        counts[at] += 1
        if received:
            counts[at + 1] += received
        if sent:
            counts[at + 2] += sent
        self._seconds[at + 3] += seconds
        counts[at + 4 + bisect_left(BUCKETS, seconds)] += 1


def _per_op(name: str, text: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=["op"])
    for op, value in sorted(values.items()):
        family.add_metric([op], value)
    return family

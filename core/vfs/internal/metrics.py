# SPDX-License-Identifier: Apache-2.0
"""Counters of one client, under the names that JuiceFS users have in their dashboards.

One set of cells, two forms: `.stats` lines (`text`) and Prometheus families (`collect`, for prometheus_client). Adding
to a cell costs well under a microsecond; prometheus_client's own cells take locks and are three times as slow, so it
only renders here. Event loop and its threads' callbacks only; a lost count in a race of threads is tolerated.
Source: cli §11.2 (names, labels, buckets), §10.1 (`.stats`: labels appended with `_`, histograms as `_total`, `_sum`).
"""

from __future__ import annotations

import errno
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PREFIX: Final = "juicefs_"


def exponential(first: float, factor: float, number: int) -> tuple[float, ...]:
    return tuple(first * factor**i for i in range(number))


_OPS: Final = exponential(1e-5, 1.8, 29)
_TRANSACTIONS: Final = exponential(1e-4, 1.5, 30)
_OBJECTS: Final = exponential(0.01, 1.5, 25)
_CACHE: Final = exponential(1e-5, 2, 20)
_SIZES: Final = tuple(float(4096 * (i + 1)) for i in range(32))
_COMPACTED: Final = exponential(1024, 2, 16)


class StagedCounts(Protocol):
    """What writeback counts (`core/chunk/staging.py`)."""

    written_bytes: int
    errors: int
    delayed_s: float


class Histogram:
    """A distribution and its sum. buckets: ascending upper bounds; the last cell counts what is above all of them."""

    __slots__ = ("buckets", "cells", "count", "sum")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self.cells = [0] * (len(buckets) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.cells[bisect_left(self.buckets, value)] += 1


class Operation:
    """Count and summed seconds of one kind of call."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


class Metrics:
    """All cells of one mount. `gauges` are asked when somebody looks: name -> value now."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._start = clock()
        self.gauges: dict[str, Callable[[], float]] = {}
        self.fuse_ops = Histogram(_OPS)
        self._fuse_cells = self.fuse_ops.cells
        self.fuse_by_method: dict[str, Operation] = {}
        self.fuse_errors: dict[int, int] = {}
        self.fuse_read = Histogram(_SIZES)
        self.fuse_written = Histogram(_SIZES)
        self.meta_ops = Histogram(_TRANSACTIONS)
        self.meta_by_method: dict[str, Operation] = {}
        self.transactions = Histogram(_TRANSACTIONS)
        self.transaction_restarts = 0
        self.objects: dict[str, Histogram] = {}
        self.object_bytes: dict[str, int] = {}
        self.object_errors = 0
        self.object_uploading = 0
        self.cache_read = Histogram(_CACHE)
        self.cache_write = Histogram(_CACHE)
        self.compacted = Histogram(_COMPACTED)
        self.staging: StagedCounts | None = None
        self.cache: dict[str, int] = dict.fromkeys(
            ("hits", "miss", "hit_bytes", "miss_bytes", "writes", "write_bytes", "drops", "evicts"), 0
        )

    # -- what doors tell --------------------------------------------------------------------------------------------

    def fuse(self, name: str, seconds: float, error: int, size: int) -> None:
        """A request of the kernel was answered. size: bytes that a read or write moved."""
        method = self.fuse_by_method.get(name) or self.fuse_method(name)
        method.count += 1
        method.seconds += seconds
        self._fuse_cells[bisect_left(_OPS, seconds)] += 1  # count and sum of them all follow from the methods
        if error:
            self.fuse_errors[error] = self.fuse_errors.get(error, 0) + 1
        elif name == "read":
            self.fuse_read.observe(size)
        elif name == "write":
            self.fuse_written.observe(size)

    def fuse_method(self, name: str) -> Operation:
        return self.fuse_by_method.setdefault(name, Operation())

    def object_request(self, method: str, seconds: float, size: int) -> None:
        found = self.objects.get(method)
        if found is None:
            found = self.objects[method] = Histogram(_OBJECTS)
            self.object_bytes[method] = 0
        found.observe(seconds)
        self.object_bytes[method] += size

    def meta_method(self, name: str) -> Operation:
        return self.meta_by_method.setdefault(name, Operation())

    # -- forms ------------------------------------------------------------------------------------------------------

    def text(self) -> bytes:
        """The lines of `.stats`, in order of their names."""
        lines: dict[str, float] = {}
        for name, value in self._values():
            lines[name] = value
        for name, histogram in self._histograms():
            lines[f"{name}_total"] = histogram.count
            lines[f"{name}_sum"] = histogram.sum
        return "".join(f"{name} {_number(lines[name])}\n" for name in sorted(lines)).encode()

    def collect(self) -> Iterator[Metric]:
        """The prometheus_client collector protocol; constant labels are its registry's affair."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for name, value in self._gauges():
            yield GaugeMetricFamily(name, name.replace("_", " "), value)
        for name, value in self._counters():
            yield CounterMetricFamily(name, name.replace("_", " "), value)
        for name, label, values in self._labelled():
            family = CounterMetricFamily(name, name.replace("_", " "), labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
        for name, histogram in self._plain_histograms():
            shown = HistogramMetricFamily(name, name.replace("_", " "))
            shown.add_metric([], _points(histogram), histogram.sum)
            yield shown
        requests = HistogramMetricFamily(
            f"{PREFIX}object_request_durations_histogram_seconds", "object requests", labels=["method"]
        )
        for method, histogram in self.objects.items():
            requests.add_metric([method], _points(histogram), histogram.sum)
        yield requests

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _values(self) -> Iterator[tuple[str, float]]:
        yield from self._gauges()
        yield from self._counters()
        for name, _, values in self._labelled():
            for label, value in values.items():
                yield f"{name}_{label}", value

    def _gauges(self) -> Iterator[tuple[str, float]]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield f"{PREFIX}uptime", self._clock() - self._start
        yield f"{PREFIX}cpu_usage", usage.ru_utime + usage.ru_stime
        yield f"{PREFIX}memory", resident_bytes()
        yield f"{PREFIX}object_request_uploading", self.object_uploading
        for name, gauge in self.gauges.items():
            yield PREFIX + name, gauge()

    def _counters(self) -> Iterator[tuple[str, float]]:
        yield f"{PREFIX}transaction_restart", self.transaction_restarts
        yield f"{PREFIX}object_request_errors", self.object_errors
        for name, value in self.cache.items():
            yield f"{PREFIX}blockcache_{name}", value
        yield f"{PREFIX}staging_write_bytes", 0 if self.staging is None else self.staging.written_bytes
        yield f"{PREFIX}staging_block_errors", 0 if self.staging is None else self.staging.errors
        yield f"{PREFIX}staging_block_delay_seconds", 0 if self.staging is None else self.staging.delayed_s

    def _labelled(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        fuse, meta = list(self.fuse_by_method.items()), list(self.meta_by_method.items())
        yield f"{PREFIX}fuse_ops_total", "method", {name: op.count for name, op in fuse}
        yield f"{PREFIX}fuse_ops_durations_seconds", "method", {name: op.seconds for name, op in fuse}
        yield (
            f"{PREFIX}fuse_ops_io_errors",
            "errno",
            {errno.errorcode.get(number, str(number)): count for number, count in self.fuse_errors.items()},
        )
        yield f"{PREFIX}meta_ops_total", "method", {name: op.count for name, op in meta}
        yield f"{PREFIX}meta_ops_duration_seconds", "method", {name: op.seconds for name, op in meta}
        yield f"{PREFIX}object_request_data_bytes", "method", dict(self.object_bytes)

    def add_up(self) -> None:
        """Bring the sums over all methods up to date; on the way of a request only its method's are."""
        for whole, parts in ((self.fuse_ops, self.fuse_by_method), (self.meta_ops, self.meta_by_method)):
            whole.count = sum(part.count for part in parts.values())
            whole.sum = sum(part.seconds for part in parts.values())

    def _plain_histograms(self) -> Iterator[tuple[str, Histogram]]:
        self.add_up()
        yield f"{PREFIX}fuse_ops_durations_histogram_seconds", self.fuse_ops
        yield f"{PREFIX}fuse_read_size_bytes", self.fuse_read
        yield f"{PREFIX}fuse_written_size_bytes", self.fuse_written
        yield f"{PREFIX}meta_ops_durations_histogram_seconds", self.meta_ops
        yield f"{PREFIX}transaction_durations_histogram_seconds", self.transactions
        yield f"{PREFIX}blockcache_read_hist_seconds", self.cache_read
        yield f"{PREFIX}blockcache_write_hist_seconds", self.cache_write
        yield f"{PREFIX}compact_size_histogram_bytes", self.compacted

    def _histograms(self) -> Iterator[tuple[str, Histogram]]:
        yield from self._plain_histograms()
        for method, histogram in self.objects.items():
            yield f"{PREFIX}object_request_durations_histogram_seconds_{method}", histogram


def _points(histogram: Histogram) -> list[tuple[str, float]]:
    running, points = 0, []
    for bound, value in zip([*map(repr, histogram.buckets), "+Inf"], histogram.cells, strict=True):
        running += value
        points.append((bound, float(running)))
    return points


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.9g}"


_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory that this process has in RAM now."""
    try:
        with open("/proc/self/statm", "rb") as f:
            return int(f.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):  # no Linux: the highest it ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

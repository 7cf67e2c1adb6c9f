# SPDX-License-Identifier: Apache-2.0
"""Counters shared by workers, health answers, and the access log."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.errors import ConfigError
from gateways.http.access_log import AccessLog, mask
from gateways.http.admin import AdminApplication
from gateways.http.body import NO_BODY, WholeBody
from gateways.http.messages import Request, Response
from gateways.http.metrics import SERIES, Metrics
from tests.gateways.http.kit import Paths, running


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    text = metrics.render().decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_of_all_workers_are_summed() -> None:
    metrics = Metrics(2)
    first, second = metrics.worker(0), metrics.worker(1)
    get, put = first.operation("GetObject"), second.operation("PutObject")
    get.observe(200, 0.003, sent=1024)
    get.observe(200, 200.0, sent=10)
    get.observe(404, 0.0005)
    put.observe(200, 0.02, received=5000)
    second.operation("GetObject").observe(200, 0.001)
    first.started()
    first.set_connections(3)
    second.set_connections(4)
    seen = samples(metrics)
    assert seen["sluice_s3_requests_total", "GetObject,200"] == 3
    assert seen["sluice_s3_requests_total", "GetObject,404"] == 1
    assert seen["sluice_s3_sent_bytes_total", "GetObject"] == 1034
    assert seen["sluice_s3_received_bytes_total", "PutObject"] == 5000
    assert seen["sluice_s3_request_seconds_bucket", "0.001,GetObject"] == 2
    assert seen["sluice_s3_request_seconds_bucket", "0.005,GetObject"] == 3
    assert seen["sluice_s3_request_seconds_bucket", "+Inf,GetObject"] == 4
    assert seen["sluice_s3_request_seconds_count", "GetObject"] == 4
    assert seen["sluice_s3_request_seconds_sum", "GetObject"] == pytest.approx(200.0045)
    assert seen["sluice_s3_in_flight_requests", ""] == 1
    assert seen["sluice_s3_connections", ""] == 7


def test_a_restarted_worker_goes_on_where_its_predecessor_stopped() -> None:
    metrics = Metrics(1)
    before = metrics.worker(0)
    before.operation("GetObject").observe(200, 0.001)
    before.started()
    metrics.gone(0)
    after = metrics.worker(0)
    after.operation("PutObject").observe(200, 0.001)
    after.operation("GetObject").observe(200, 0.001)
    seen = samples(metrics)
    assert seen["sluice_s3_requests_total", "GetObject,200"] == 2
    assert seen["sluice_s3_requests_total", "PutObject,200"] == 1
    assert seen["sluice_s3_in_flight_requests", ""] == 0
    assert seen["sluice_s3_worker_starts_total", ""] == 2


def test_counters_are_shared_with_forked_processes() -> None:
    metrics = Metrics(2)
    pid = os.fork()
    if pid == 0:
        metrics.worker(1).operation("GetObject").observe(200, 0.001)
        os._exit(0)
    os.waitpid(pid, 0)
    assert samples(metrics)["sluice_s3_requests_total", "GetObject,200"] == 1


def test_more_series_than_there_is_room_for_are_counted_together() -> None:
    metrics = Metrics(1)
    worker = metrics.worker(0)
    for number in range(SERIES + 50):
        worker.operation(f"Op{number}").observe(200, 0.001)
    worker.operation("x" * 500).observe(200, 0.001)
    seen = samples(metrics)
    assert seen["sluice_s3_requests_total", "Other,0"] == 52
    assert seen["sluice_s3_requests_total", "Op7,200"] == 1


def test_health_and_metrics_paths() -> None:
    good = [True]

    async def ready() -> bool:
        if not good[0]:
            raise OSError("no volume")
        return True

    metrics = Metrics(1)
    with running(AdminApplication(metrics, ready)) as run, run.connect() as client:
        for expected in (200, 503):
            good[0] = expected == 200
            for path in ("/health", "/minio/health/ready", "/minio/health/cluster", "/minio/health/cluster/read"):
                client.request("GET", path)
                answer = client.answer()
                assert (answer.status, answer.body) == (expected, b"")
            client.request("HEAD", "/minio/health/live")
            assert client.answer(head_only=True).status == 200
        client.request("GET", "/metrics")
        answer = client.answer()
        assert answer.headers["content-type"].startswith("text/plain")
        assert b"sluice_s3_in_flight_requests 0" in answer.body
        client.request("POST", "/metrics", b"x")
        assert client.answer().status == 405
        client.request("GET", "/bucket")
        assert client.answer().status == 404


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/b/k?list-type=2&prefix=Signature", "/b/k?list-type=2&prefix=Signature"),
        ("/b/Signature=abc", "/b/Signature=abc"),
        ("/b/k?X-Amz-Signature=abc&x-id=GetObject", "/b/k?X-Amz-Signature=***&x-id=GetObject"),
        ("/b/k?AWSAccessKeyId=AK&Signature=s%3D&Expires=1", "/b/k?AWSAccessKeyId=***&Signature=***&Expires=1"),
        ("/b/k?x-amz-signature=abc", "/b/k?x-amz-signature=***"),
        ("/b/k?a=b&X-Amz-Security-Token=tok", "/b/k?a=b&X-Amz-Security-Token=***"),
        ("/b/k?X-Amz-%53ignature=abc", "/b/k?X-Amz-%53ignature=***"),
        ("/b/k?X-Amz-Signature=a?Signature=b", "/b/k?X-Amz-Signature=***"),
        ("/b/k?acl", "/b/k?acl"),
    ],
)
def test_secrets_in_targets_are_masked(target: str, expected: str) -> None:
    assert mask(target) == expected


def request(target: str, body: bytes = b"") -> Request:
    return Request("PUT", target, {}, WholeBody(body) if body else NO_BODY, peer="10.0.0.1")


def test_access_log_lines(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    answer = Response(200, [("X-Amz-Request-Id", "0123456789ABCDEF")])
    log = AccessLog(str(path), clock=lambda: 1767225600.25)
    log.observe(request('/b/"\x7fk?Signature=s', b"abc"), answer, 10, 0.0123456, True)
    log.observe(request("/b"), Response(499), 0, 1, False)
    assert path.read_text() == ""
    log.flush()
    assert path.read_text() == (
        '2026-01-01T00:00:00.250Z 10.0.0.1 PUT "/b/\\"\\u007fk?Signature=***" 200 3 10 12.346 0123456789ABCDEF\n'
        '2026-01-01T00:00:00.250Z 10.0.0.1 PUT "/b" 499 0 0 1000 - cut\n'
    )
    path.rename(tmp_path / "access.log.1")
    log.observe(request("/new"), answer, 0, 0, True)
    log.close()
    assert '"/new"' in path.read_text()

    as_json = AccessLog(str(tmp_path / "json"), json_lines=True, clock=lambda: 0.5)
    as_json.observe(request("/b?AWSAccessKeyId=AK"), answer, 1, 0.001, True)
    as_json.close()
    line = json.loads((tmp_path / "json").read_text())
    assert line["target"] == "/b?AWSAccessKeyId=***"
    assert line["request_id"] == "0123456789ABCDEF"
    with pytest.raises(ConfigError, match="nowhere"):
        AccessLog(str(tmp_path / "nowhere" / "log"))


def test_the_server_reports_every_answer_once() -> None:
    seen: list[tuple[str, int, int, bool]] = []

    async def big(request: Request) -> Response:
        return Response(200, [], [bytes(500_000)])

    async def stuck(request: Request) -> Response:
        seen.append(("entered", 0, 0, True))
        await asyncio.Event().wait()
        return Response(200)

    def observe(request: Request, response: Response, sent: int, seconds: float, complete: bool) -> None:
        assert 0 <= seconds < 60
        seen.append((request.target, response.status, sent, complete))

    app = Paths(big=big, stuck=stuck)
    with running(app, observer=observe) as run, run.connect() as client:
        for path in ("/hello", "/slow", "/big"):
            client.request("GET", path)
            client.answer()
        client.request("HEAD", "/hello")
        client.answer(head_only=True)
        client.request("GET", "/stuck")
    # `running` waits for the server to stop, so everything was reported by now.
    seen = [line for line in seen if line[0] != "entered"]
    assert seen[:4] == [("/hello", 200, 5, True), ("/slow", 200, 4, True), ("/big", 200, 500_000, True),
                        ("/hello", 200, 0, True)]  # fmt: skip
    assert seen[4:] in ([], [("/stuck", 499, 0, False)])

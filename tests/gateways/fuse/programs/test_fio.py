# SPDX-License-Identifier: Apache-2.0
"""fio writes blocks that carry their own checksums and reads them back, in the ways a program can do IO."""

from __future__ import annotations

import json

import pytest

from tests.gateways.fuse.programs.place import Place, first, sizes
from tests.gateways.fuse.programs.run import run
from tests.servers.process import require

#: name -> options of fio beside those of `test_what_fio_wrote_it_reads_back`.
JOBS = {
    "random 4k": ["--rw=randwrite", "--bs=4k", "--ioengine=psync"],
    "odd sizes": ["--rw=randwrite", "--bsrange=512-70k", "--bs_unaligned=1", "--ioengine=psync"],
    "sequential": ["--rw=write", "--bs=1m", "--ioengine=psync", "--end_fsync=1"],
    "vectors": ["--rw=randrw", "--bs=16k", "--ioengine=pvsync2"],
    "mmap": ["--rw=randwrite", "--bs=4k", "--ioengine=mmap"],
    "direct": ["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--direct=1"],
    "libaio": ["--rw=randwrite", "--bs=8k", "--ioengine=libaio", "--iodepth=16"],
    "libaio direct": ["--rw=randwrite", "--bs=64k", "--ioengine=libaio", "--iodepth=16", "--direct=1"],
    "fsync often": ["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--fsync=16", "--io_size=1m"],
    "preallocated": ["--rw=randwrite", "--bs=32k", "--ioengine=psync", "--fallocate=native"],
    "holes": ["--rw=randtrimwrite", "--bs=64k", "--ioengine=psync"],
}  # fmt: skip


@pytest.mark.parametrize(
    "job", first([name for name in JOBS if name != "holes"], "odd sizes", "mmap", "direct", "libaio direct")
)
@sizes(fast=(2, "4m"), heavy=(4, "96m"))
def test_what_fio_wrote_it_reads_back(place: Place, size: tuple[int, str], job: str) -> None:
    require("fio", "apt-get install fio")
    jobs, each = size
    common = [
        "fio", "--name=job", f"--directory={place.folder}", f"--size={each}", f"--numjobs={jobs}", "--group_reporting",
        "--verify=crc32c", "--verify_fatal=1", "--verify_dump=0", "--randrepeat=1", "--randseed=7",
        "--output-format=json", *JOBS[job],
    ]  # fmt: skip
    if "random" not in job and "psync" in JOBS[job][-1]:
        common.append("--verify_backlog=64")
    report = run(*common, "--do_verify=1", timeout_s=1200, cwd=place.folder)
    assert not any(part["error"] for part in parse(report.stdout)["jobs"]), report.stdout[-3000:]
    if "randrw" not in " ".join(JOBS[job]) and "--verify_backlog=64" not in common:
        # From the volume itself, with nothing in any cache.
        place.remount()
        report = run(*common, "--verify_only=1", timeout_s=1200, cwd=place.folder)
        assert not any(part["error"] for part in parse(report.stdout)["jobs"]), report.stdout[-3000:]


def parse(output: str) -> dict[str, list[dict[str, int]]]:
    """The JSON of fio's output, which may begin and end with plain lines."""
    document: dict[str, list[dict[str, int]]] = json.loads(output[output.index("{") : output.rindex("}") + 1])
    return document


@sizes(fast="4m", heavy="96m")
def test_one_file_shared_by_writers_of_different_parts(place: Place, size: str) -> None:
    require("fio", "apt-get install fio")
    command = [
        "fio", "--name=part", f"--filename={place.folder}/shared", f"--size={size}", f"--offset_increment={size}",
        "--numjobs=4", "--rw=randwrite", "--bs=4k", "--verify=sha1", "--verify_fatal=1", "--do_verify=1",
        "--ioengine=psync", "--output-format=json", "--randseed=11",
    ]  # fmt: skip
    report = parse(run(*command, timeout_s=1200, cwd=place.folder).stdout)
    assert not any(part["error"] for part in report["jobs"])
    place.remount()
    report = parse(run(*command, "--verify_only=1", timeout_s=1200, cwd=place.folder).stdout)
    assert not any(part["error"] for part in report["jobs"])

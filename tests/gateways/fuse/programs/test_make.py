# SPDX-License-Identifier: Apache-2.0
"""A C project configured and built on a mount. make trusts times: what is built is newer than what it was built of."""

from __future__ import annotations

from pathlib import Path

from tests.gateways.fuse.programs.c_project import make_project
from tests.gateways.fuse.programs.place import Place, sizes
from tests.gateways.fuse.programs.run import run
from tests.servers.process import require


@sizes(fast=30, heavy=150)
def test_a_c_project_is_configured_built_and_checked(place: Place, size: int, tmp_path: Path) -> None:
    for program in ("cc", "make"):
        require(program, "apt-get install build-essential")
    project = place.folder / "project"
    make_project(project, size)
    run("./configure", "--prefix=/opt/parts", cwd=project)
    config = (project / "config.h").read_text()
    assert "#define HAVE_MMAP 1" in config and "#undef HAVE_CONIO_H" in config

    built = run("make", "-j4", cwd=project).stdout
    assert built.count(" -c -o ") == size
    assert "all passed" in run("make", "check", cwd=project).stdout
    assert "Nothing to be done" in run("make", "-j4", cwd=project).stdout

    # One header near the end of the chain: what includes it is built again, the rest stays.
    header = project / f"include/part{size - 3}.h"
    header.write_text(header.read_text() + "\n")
    assert run("make", "-j4", cwd=project).stdout.count(" -c -o ") == 3
    assert "Nothing to be done" in run("make", "-j4", cwd=project).stdout
    # The same answer does not touch config.h, so only the new Makefile matters.
    run("./configure", "--prefix=/opt/parts", cwd=project)
    assert run("make", "-j4", cwd=project).stdout.count(" -c -o ") == size

    run("make", "install", f"DESTDIR={place.folder}/stage", cwd=project)
    place.remount()
    assert "Nothing to be done" in run("make", cwd=project).stdout
    assert "all passed" in run("make", "check", cwd=project).stdout
    # The very bytes that a build elsewhere gives.
    other = tmp_path / "project"
    make_project(other, size)
    run("./configure", "--prefix=/opt/parts", cwd=other)
    run("make", "-j4", cwd=other)
    for number in range(size):
        name = f"src/part{number}.o"
        assert (project / name).read_bytes() == (other / name).read_bytes(), name
    run("make", "clean", cwd=project)
    assert not (project / "lib").exists() and not list((project / "src").glob("*.o"))

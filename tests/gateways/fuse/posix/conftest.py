# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the POSIX suite: the place, a fresh directory in it, and people of different rights."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.fuse.mounts import Watchdog
from tests.gateways.fuse.posix import places
from tests.gateways.fuse.posix.actors import Actor, People, User
from tests.gateways.fuse.posix.places import Place

#: Nobody waits longer than this for one test; the mount is aborted then.
PATIENCE_S = 60
ALICE, BOB, CAROL = 60001, 60002, 60003
#: A group of Alice and Bob beside their own.
TEAM = 60100

_numbers = itertools.count(1)


#: On all places but one a function runs with so many of its parameters in the fast set: on the reference, on further
#: engines.
SAMPLES, SAMPLES_OF_ENGINES = 2, 1
#: What a mount option of the kernel (`sqlite+writeback_cache`) changes is content and times: only these modules run
#: there in the fast set.
OF_OPTIONS = (
    "test_io",
    "test_truncate",
    "test_fallocate",
    "test_copy_file_range",
    "test_times",
    "test_utimensat",
    "test_setid",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        metafunc.parametrize("place", places.chosen(), indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as heavy what runs on further places, before heavy tests are taken out."""
    if places.given():
        return
    groups: dict[tuple[object, object], list[pytest.Function]] = {}
    for item in items:
        if not isinstance(item, pytest.Function) or not _has_place(item):
            continue
        name = item.callspec.params.get("place")
        if name is not None and name != places.FULL:
            groups.setdefault((item.function, name), []).append(item)
    for (_, name), same in groups.items():
        wanted = name in places.FAST or (
            name not in places.REFERENCES
            and same[0].get_closest_marker("every_engine") is not None
            and ("+" not in name or same[0].path.stem in OF_OPTIONS)
        )
        samples = SAMPLES if name in places.REFERENCES else SAMPLES_OF_ENGINES
        step = max(len(same) // samples, 1)
        for i, item in enumerate(same):
            if not wanted or i % step or i // step >= samples:
                item.add_marker(pytest.mark.heavy)


def _has_place(item: pytest.Function) -> bool:
    return hasattr(item, "callspec") and item.path.parent == Path(__file__).parent


_places = places.Pool()
_watchdog = Watchdog()


@pytest.fixture(scope="session", autouse=True)
def _pool_of_places() -> Iterator[None]:
    yield
    _places.close()


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> Place:
    return _places.get(request.param)


@pytest.fixture
def d(place: Place) -> Iterator[Path]:
    """A fresh directory of mode 0755, as in an ordinary umask, in a place that answers."""
    if place.mount:
        if _watchdog.fired or not place.mount.process_lives():
            _watchdog.fired = False
            place.mount.kill()
            place.mount.start()
        _watchdog.guard(PATIENCE_S, place.mount)
    umask = os.umask(0)
    path = place.root / f"d{os.getpid()}-{next(_numbers)}"
    try:
        path.mkdir(0o755)
        yield path
    finally:
        os.umask(umask)
        _close_descriptors(place.root)
        _watchdog.rest()
    if place.mount and not place.mount.process_lives():
        pytest.fail(f"the mount process ended by itself:\n{place.mount.log_text()}")
    if _watchdog.fired:
        pytest.fail(f"the mount did not answer within {PATIENCE_S} s and was aborted")


def _close_descriptors(root: Path) -> None:
    """What a test left open below `root`, because it failed or didn't care."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith(f"{root}/"):
                os.close(int(name))


@pytest.fixture(scope="session")
def _pool() -> Iterator[People]:
    pool = People()
    yield pool
    pool.close()


@pytest.fixture
def people(_pool: People) -> Iterator[People]:
    yield _pool
    _pool.leave()


@pytest.fixture
def root() -> Actor:
    return Actor()


@pytest.fixture
def alice(_pool: People) -> User:
    return _pool.user(ALICE, ALICE)


@pytest.fixture
def bob(_pool: People) -> User:
    return _pool.user(BOB, BOB)


@pytest.fixture
def alice_of_team(_pool: People) -> User:
    return _pool.user(ALICE, ALICE, TEAM)


@pytest.fixture
def bob_of_team(_pool: People) -> User:
    return _pool.user(BOB, BOB, TEAM)


@pytest.fixture
def open_dir(d: Path) -> Path:
    """A directory in which everybody may do anything."""
    path = d / "open"
    path.mkdir()
    path.chmod(0o777)
    return path

# SPDX-License-Identifier: Apache-2.0
"""Several users at one door: roots, read-only users, whose lock it is, the S3 keys, accounts with permissions."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.webdav.door import Answer, Door, token_of

D = "{DAV:}"


def login(name: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{name}-secret".encode()).decode()


@pytest.fixture(scope="module")
def people(meta_url: str, door: Door, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    from passlib.hash import bcrypt

    path: Path = tmp_path_factory.mktemp("people") / "htpasswd"
    names = ("ann", "bob", "guest", "..", "a%2Fb")
    path.write_text("".join(f"{n}:{bcrypt.using(rounds=4).hash(n + '-secret')}\n" for n in names))
    door.ask("MKCOL", "/people")
    for name in ("ann", "bob", "guest"):
        door.ask("MKCOL", f"/people/{name}")
    options = ["--htpasswd", str(path), "--user-root", "/people/%u", "--read-only-user", "guest"]
    with Door(meta_url, *options, users=False) as running:
        yield running


def test_users_of_a_file_come_in_and_others_do_not(people: Door) -> None:
    assert people.ask("PROPFIND", "/", {"Depth": "0"}, login=login("ann")).status == 207
    refused = people.ask("PROPFIND", "/", {"Depth": "0"}, login=login("eve"))
    assert refused.status == 401 and refused.headers["www-authenticate"].startswith("Basic")
    assert "Digest" not in refused.headers["www-authenticate"], "hashed passwords can't be proven by it"


def test_nobody_leaves_the_own_root(people: Door, door: Door) -> None:
    assert people.ask("PUT", "/private", body=b"ann's", login=login("ann")).status == 201
    assert door.ask("GET", "/people/ann/private").body == b"ann's"
    tries = ("/../ann/private", "/%2e%2e/ann/private", "/..%2fann/private", "/people/ann/private", "/./private")
    for path in tries:
        assert people.ask("GET", path, login=login("bob")).status in (400, 404), path
    assert people.ask("PUT", "/b", body=b"b", login=login("bob")).status == 201
    for target in ("/../ann/stolen", "/%2e%2e/ann/stolen", "/x/../../ann/stolen"):
        for method in ("COPY", "MOVE"):
            assert people.ask(method, "/b", {"Destination": target}, login=login("bob")).status == 400, target
    for name in ("..", "a%2Fb"):
        assert people.ask("GET", "/", login=login(name)).status in (400, 403, 404), name


def test_links_that_lead_out_of_a_root_do_not_exist(people: Door, meta_url: str) -> None:
    from core.volume import open_volume

    async def make_links() -> None:
        volume = await open_volume(meta_url, session=False, jobs=False)
        try:
            fs = volume.fs
            home = (await fs.lookup(b"/people/bob")).ino
            for name, target in ((b"up", b"../ann/private"), (b"abs", b"/people/ann/private"), (b"loop", b"loop"),
                                 (b"in", b"./b-file"), (b"dir", b".."), (b"etc", b"/etc/passwd")):  # fmt: skip
                await fs.meta.symlink(home, name, target)
        finally:
            await volume.close()

    import asyncio

    asyncio.run(make_links())
    people.ask("PUT", "/private", body=b"ann's", login=login("ann"))
    people.ask("PUT", "/b-file", body=b"bob's", login=login("bob"))
    shown = people.ask("PROPFIND", "/", {"Depth": "1"}, login=login("bob")).texts(D + "href")
    assert "/in" in shown
    for name in ("up", "abs", "loop", "dir", "dir/", "etc"):
        assert f"/{name}" not in shown and f"/{name}/" not in shown
        for method in ("GET", "PROPFIND", "COPY", "MOVE", "DELETE", "PROPPATCH"):
            body = b'<propertyupdate xmlns="DAV:"/>' if method == "PROPPATCH" else None
            found = people.ask(method, f"/{name}", {"Depth": "0", "Destination": "/s"}, body, login=login("bob"))
            assert found.status in (400, 404), (method, name, found.status)
        assert people.ask("PUT", f"/{name}", body=b"x", login=login("bob")).status in (403, 409)
    assert people.ask("GET", "/dir/ann/private", login=login("bob")).status == 404
    assert people.ask("GET", "/in", login=login("bob")).body == b"bob's"
    assert people.ask("PUT", "/in", body=b"through", login=login("bob")).status == 204
    assert people.ask("GET", "/b-file", login=login("bob")).body == b"through", "a link stays one"


def test_a_read_only_user_changes_nothing(people: Door) -> None:
    for method in ("PUT", "MKCOL", "DELETE", "LOCK", "PROPPATCH", "PATCH"):
        assert people.ask(method, "/g", body=b"", login=login("guest")).status == 403, method
    assert people.ask("PROPFIND", "/", {"Depth": "0"}, login=login("guest")).status == 207


def test_a_lock_belongs_to_whoever_took_it(meta_url: str, door: Door, tmp_path: Path) -> None:
    path = tmp_path / "htdigest"
    hashed = {n: hashlib.md5(f"{n}:SluiceFS:{n}-secret".encode()).hexdigest() for n in ("ann", "bob")}
    path.write_text("".join(f"{name}:SluiceFS:{value}\n" for name, value in hashed.items()))
    door.put("/whose", b"1")
    with Door(meta_url, "--htdigest", str(path), users=False) as both:

        def as_(name: str, method: str, body: bytes | None = None, **headers: str) -> Answer:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            return both.ask(method, "/whose", named, body, login=login(name))

        info = b'<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>'
        token = token_of(as_("ann", "LOCK", info))
        assert as_("bob", "PUT", b"2", If=f"(<{token}>)").status == 423, "a token alone is no right"
        assert as_("bob", "UNLOCK", Lock_Token=f"<{token}>").status == 403
        assert as_("bob", "LOCK", If=f"(<{token}>)").status == 403, "nor may others keep it alive"
        assert as_("ann", "PUT", b"3", If=f"(<{token}>)").status == 204
        assert as_("ann", "UNLOCK", Lock_Token=f"<{token}>").status == 204
        assert as_("bob", "GET").body == b"3"


def test_the_keys_of_the_s3_gateway_are_users(meta_url: str) -> None:
    keys = {"SLUICE_ACCESS_KEY": "shared-key", "SLUICE_SECRET_KEY": "shared-key-secret"}
    with Door(meta_url, "--auth", "iam", users=True, env=keys) as shared:
        assert shared.ask("GET", "/", {"Accept": "text/html"}, login=login("shared-key")).status == 200
        assert shared.ask("GET", "/").status == 401, "WEBDAV_USER doesn't count then"
    with Door(meta_url, users=False, env=keys) as fallback:
        assert fallback.ask("GET", "/", {"Accept": "text/html"}, login=login("shared-key")).status == 200
        assert fallback.ask("GET", "/", login=None).status == 401
    log = fallback.log_text() if fallback.folder.exists() else ""
    assert "shared-key-secret" not in log


def test_accounts_have_the_rights_of_their_files(meta_url: str, door: Door, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("acting as other users needs root")
    (tmp_path / "map").write_text("ann:1201:1201\nbob:1202:1202\n")
    options = ["--auth", "header", "--trusted-proxy", "127.0.0.1", "--identity", "map", "--user-map"]
    with Door(meta_url, *options, str(tmp_path / "map"), users=False) as served:

        def as_(name: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            return served.ask(method, path, {"X-Remote-User": name, **named}, body, login=None)

        assert as_("carol", "GET", "/").status == 403, "no account"
        _make_folders(meta_url)
        assert as_("ann", "PUT", "/closed/by-ann", b"1").status == 403
        assert as_("ann", "PROPFIND", "/closed", Depth="1").status == 403
        assert as_("ann", "PUT", "/open/by-ann", b"1").status == 201
        assert _owner(meta_url, b"/open/by-ann") == (1201, 1201)
        assert as_("bob", "GET", "/open/by-ann").body == b"1"
        assert as_("bob", "PUT", "/open/by-ann", b"2").status == 403
        info = b'<lockinfo xmlns="DAV:"><lockscope><shared/></lockscope><locktype><write/></locktype></lockinfo>'
        assert as_("bob", "LOCK", "/open/by-ann", info).status == 403, "nor may bob keep ann from writing"
        patch = b'<propertyupdate xmlns="DAV:"><set><prop><x xmlns="urn:x">1</x></prop></set></propertyupdate>'
        assert as_("bob", "PROPPATCH", "/open/by-ann", patch).texts(D + "status")[0].split()[1] == "403"
        assert as_("ann", "PROPPATCH", "/open/by-ann", patch).texts(D + "status")[0].split()[1] == "200"
        assert as_("ann", "MKCOL", "/open/tree").status == 201
        assert as_("ann", "PUT", "/open/tree/f", b"tree").status == 201
        assert as_("bob", "COPY", "/open/tree", Destination="/open/bobs").status == 201
        assert _owner(meta_url, b"/open/bobs/f") == (1202, 1202), "a copy belongs to whoever made it"
        assert as_("bob", "DELETE", "/open/tree/f").status == 403
        assert as_("bob", "MOVE", "/open/tree/f", Destination="/open/mine").status == 403
        assert as_("bob", "COPY", "/open/bobs/f", Destination="/open/tree/f").status == 403
        assert as_("ann", "GET", "/open/tree/f").body == b"tree"
        assert as_("ann", "DELETE", "/open/tree").status == 204


def _make_folders(meta_url: str) -> None:
    import asyncio

    from core.volume import open_volume

    async def make() -> None:
        volume = await open_volume(meta_url, session=False, jobs=False)
        try:
            await volume.fs.mkdir(b"/closed", mode=0o700)
            made = await volume.fs.mkdir(b"/open", mode=0o777)
            await volume.fs.meta.setattr(made.ino, {"mode": 0o1777})
        finally:
            await volume.close()

    asyncio.run(make())


def _owner(meta_url: str, path: bytes) -> tuple[int, int]:
    import asyncio

    from core.volume import open_volume

    async def look() -> tuple[int, int]:
        volume = await open_volume(meta_url, session=False, jobs=False)
        try:
            attr = (await volume.fs.lookup(path)).attr
            return attr.uid, attr.gid
        finally:
            await volume.close()

    return asyncio.run(look())

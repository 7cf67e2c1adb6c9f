# SPDX-License-Identifier: Apache-2.0
"""Where users come from, without a server: hashes of files, reloading, the S3 door's keys, proxies, accounts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.vfs.api import Caller
from gateways.http.messages import Body, Request
from gateways.s3.auth.credentials import Credential, StaticCredentials
from gateways.webdav.auth import digest, files, identity
from gateways.webdav.auth.door import Doorkeeper
from gateways.webdav.auth.htdigest import HtdigestUsers
from gateways.webdav.auth.htpasswd import HtpasswdUsers
from gateways.webdav.auth.proxies import Proxies
from gateways.webdav.auth.users import KeyUsers, Several, StaticUsers, users_from
from gateways.webdav.errors import DavError


class NoBody(Body):
    length = 0

    async def read(self) -> bytes:
        return b""


def request(peer: str = "192.0.2.7", **headers: str) -> Request:
    names = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Request("GET", "/", names, NoBody(), peer=peer)


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def htpasswd(folder: Path, password: str = "secret", **more: str) -> Path:
    from passlib.hash import apr_md5_crypt, bcrypt, ldap_sha1, sha256_crypt, sha512_crypt

    lines = {
        "bcrypt": bcrypt.using(rounds=4, ident="2y").hash(password),
        "sha256": sha256_crypt.using(rounds=1000).hash(password),
        "sha512": sha512_crypt.using(rounds=1000).hash(password),
        "apr1": apr_md5_crypt.hash(password),
        "sha": ldap_sha1.hash(password),
        **more,
    }
    path = folder / "htpasswd"
    path.write_text("# users\n\n" + "".join(f"{name}:{hashed}\n" for name, hashed in lines.items()))
    return path


def test_every_hash_of_htpasswd_admits_its_password_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    users = HtpasswdUsers(str(htpasswd(tmp_path, plain="secret", des="rl0bOLQdBf9Bs")))
    for name in ("bcrypt", "sha256", "sha512", "apr1", "sha"):
        assert users.verify(name, "secret"), name
        assert not users.verify(name, "Secret") and not users.verify(name, ""), name
    assert not users.verify("nobody", "secret")
    assert not users.verify("plain", "secret") and not users.verify("des", "secret"), "weak forms admit nobody"
    assert "'plain'" in caplog.text and "htpasswd -B" in caplog.text and ":secret" not in caplog.text


def test_a_long_password_is_no_error(tmp_path: Path) -> None:
    users = HtpasswdUsers(str(htpasswd(tmp_path, password="ä" * 36)))
    assert users.verify("bcrypt", "ä" * 36)
    assert not users.verify("bcrypt", "x" * 500) and not users.verify("sha512", "x" * 500)
    assert not users.verify("bcrypt", "nul\0nul")


def test_a_changed_file_counts_and_a_broken_one_leaves_the_old_users(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "users"
    path.write_text("one\n")
    file = files.UserFile(str(path), lambda text: text.split(), option="--htpasswd", clock=lambda: now)
    path.write_text("one two\n")
    assert file.current() == ["one"], "looked at once per second"
    now = 2
    assert file.current() == ["one", "two"] and file.generation == 2
    path.unlink()
    now = 4
    assert file.current() == ["one", "two"]
    with pytest.raises(ConfigError, match=r"--htpasswd .* can't be read"):
        files.UserFile(str(path), str.split, option="--htpasswd")
    path.write_text("no colon here\n")
    with pytest.raises(ConfigError, match="line 1: NAME:HASH"):
        HtpasswdUsers(str(path))


def test_htdigest_serves_digest_and_basic(tmp_path: Path) -> None:
    def line(name: str, algorithm: str = "md5", realm: str = "SluiceFS") -> str:
        return f"{name}:{realm}:{hashlib.new(algorithm, f'{name}:{realm}:secret'.encode()).hexdigest()}\n"

    path = tmp_path / "htdigest"
    path.write_text(line("ann") + line("other", realm="Else:where"))
    users = HtdigestUsers(str(path), "SluiceFS")
    assert users.verify("ann", "secret") and not users.verify("ann", "wrong") and not users.verify("other", "secret")
    assert users.algorithms("SluiceFS") == ("MD5",)
    path.write_text(line("ann") + line("ann", "sha256"))
    both = HtdigestUsers(str(path), "SluiceFS")
    assert both.algorithms("SluiceFS") == ("SHA-256", "MD5") and both.verify("ann", "secret")
    with pytest.raises(ConfigError, match="no user of the realm 'Elsewhere'"):
        HtdigestUsers(str(path), "Elsewhere")
    path.write_text("ann:SluiceFS:nothex\n")
    with pytest.raises(ConfigError, match="line 1: NAME:REALM:HASH"):
        HtdigestUsers(str(path), "SluiceFS")


def test_sources_are_joined_and_digest_is_offered_only_if_all_can(tmp_path: Path) -> None:
    hashed = HtpasswdUsers(str(htpasswd(tmp_path)))
    clear = StaticUsers({"env": "secret"})
    joined = Several([hashed, clear])
    assert joined.verify("env", "secret") and joined.verify("sha", "secret") and not joined.fast
    assert joined.algorithms("r") == () and clear.algorithms("r") == ("SHA-256", "MD5")
    assert joined.secret("env", "r", "MD5") == hashlib.md5(b"env:r:secret").hexdigest()


def test_keys_of_the_s3_door_are_users_unless_disabled_expired_or_temporary() -> None:
    keys = [
        Credential("AKIA", "secret-key"), Credential("OFF", "secret-key", enabled=False),
        Credential("OLD", "secret-key", expires=100), Credential("STS", "secret-key", session_token="t"),
    ]  # fmt: skip
    users = KeyUsers(StaticCredentials(keys).find, clock=lambda: 200)
    assert users.verify("AKIA", "secret-key") and not users.verify("AKIA", "secret")
    for name in ("OFF", "OLD", "STS", "NONE"):
        assert not users.verify(name, "secret-key"), name
        assert users.secret(name, "r", "MD5") is None


def test_a_password_of_the_environment_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("from-file\n")
    users = users_from({"WEBDAV_USER": "ann", "WEBDAV_PASSWORD_FILE": str(tmp_path / "p")})
    assert users.verify("ann", "from-file")
    with pytest.raises(ConfigError, match="WEBDAV_USER is set but WEBDAV_PASSWORD is not"):
        users_from({"WEBDAV_USER": "ann"})
    with pytest.raises(ConfigError, match="colon"):
        users_from({"WEBDAV_USER": "a:b", "WEBDAV_PASSWORD": "x"})


def test_only_a_trusted_proxy_speaks_for_others() -> None:
    proxies = Proxies(["10.0.0.0/8", "::1"])
    assert "10.1.2.3" in proxies and "192.0.2.1" not in proxies and "garbage" not in proxies
    chain = request("10.0.0.1", X_Forwarded_For="198.51.100.9, 203.0.113.5, 10.0.0.2")
    assert proxies.client(chain) == "203.0.113.5", "what a client wrote further left proves nothing"
    assert proxies.client(request("192.0.2.1", X_Forwarded_For="198.51.100.9")) == "192.0.2.1"
    assert proxies.secure(request("10.0.0.1", X_Forwarded_Proto="https"))
    assert not proxies.secure(request("192.0.2.1", X_Forwarded_Proto="https"))
    with pytest.raises(ConfigError, match="--trusted-proxy"):
        Proxies(["not an address"])


async def test_a_user_named_by_the_proxy_gets_in_and_by_nobody_else() -> None:
    door = Doorkeeper(None, proxies=Proxies(["10.0.0.1"]), header="X-Remote-User", read_only={"bob"})
    assert (await door.admit(request("10.0.0.1", X_Remote_User="ann%C3%A4"))).name == "annä"
    assert (await door.admit(request("10.0.0.1", X_Remote_User="bob"))).read_only
    for asked, status in ((request("10.0.0.9", X_Remote_User="ann"), 403), (request("10.0.0.1"), 401)):
        with pytest.raises(DavError) as error:
            await door.admit(asked)
        assert error.value.status == status


async def test_a_changed_password_ends_what_was_remembered_of_the_old_one() -> None:
    class Changing(StaticUsers):
        version = 1

        def verify(self, name: str, password: str) -> bool:
            return password == f"v{self.version}"

        def generation(self) -> int:
            return self.version

    users = Changing({})
    door = Doorkeeper(users)
    old = request(Authorization=basic("ann", "v1"))
    assert (await door.admit(old)).name == "ann"
    users.version = 2
    with pytest.raises(DavError) as error:
        await door.admit(old)
    assert error.value.status == 401


async def test_guessing_slows_down_per_user_and_per_address() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    door = Doorkeeper(StaticUsers({"ann": "right"}), sleep=sleep, digest=digest.Digest("r", StaticUsers({}), b"k"))
    for number in range(14):
        with pytest.raises(DavError):
            await door.admit(request(f"192.0.2.{number}", Authorization=basic("ann", f"guess{number}")))
    assert len(waits) == 4 and waits == sorted(waits) and max(waits) <= 2, "one name from many addresses"
    assert (await door.admit(request(Authorization=basic("ann", "right")))).name == "ann", "the right one never waits"
    await asyncio.gather(*(door.admit(request(Authorization=basic("ann", "right"))) for _ in range(3)))


def test_accounts_come_from_a_file_or_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text("# who\nann:1000:1000,1001\n")
    caller_of = identity.mapped(str(path))
    assert caller_of("ann") == Caller(1000, (1000, 1001))
    with pytest.raises(DavError) as error:
        caller_of("bob")
    assert error.value.status == 403
    assert caller_of("").uid == 65534
    for bad in ("ann:1000\n", "ann:x:1\n", "ann:-1:0\n", "ann:1:nogroupofthisname\n"):
        path.write_text(bad)
        with pytest.raises(ConfigError, match="line 1: NAME:UID:GID"):
            identity.mapped(str(path))
    assert identity.system("root").uid == 0
    with pytest.raises(DavError):
        identity.system("no-such-account-here")

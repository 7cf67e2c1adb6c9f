# SPDX-License-Identifier: Apache-2.0
"""Who may come in, and what a request may not be: credentials, read-only doors, foreign origins, hostile bodies."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import time

from tests.gateways.webdav.door import BASIC, PASSWORD, USER, Door


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_without_the_password_there_is_a_challenge_and_nothing_else(door: Door) -> None:
    for login in (None, basic(USER, "wrong"), basic("nobody", PASSWORD), "Basic !!", "Bearer x"):
        found = door.ask("PROPFIND", "/", {"Depth": "0"}, login=login)
        assert found.status == 401 and "Basic realm=" in found.headers["www-authenticate"]
        assert found.headers["dav"].startswith("1, 2, 3")
    free = door.ask("OPTIONS", "/anything/at/all", login=None)
    assert free.status == 200 and free.headers["ms-author-via"] == "DAV"


def test_wrong_passwords_are_slowed_down(meta_url: str) -> None:
    with Door(meta_url) as door:
        started = time.monotonic()
        for _ in range(13):
            assert door.ask("GET", "/", login=basic("somebody", "guess")).status == 401
        assert time.monotonic() - started > 1.0
        assert door.ask("OPTIONS", "/").status == 200


def test_every_client_has_a_nonce_of_its_own(door: Door) -> None:
    """One nonce for two clients would make the second one's first request a replay."""
    challenges = [door.ask("GET", "/", login=None).headers["www-authenticate"] for _ in range(5)]
    assert len({re.findall('nonce="([^"]+)"', text)[0] for text in challenges}) == 5


def test_digest_works_and_a_replay_is_stale(door: Door) -> None:
    challenge = door.ask("GET", "/", login=None)
    assert challenge.status == 401 and "SHA-256" in challenge.headers["www-authenticate"]
    found = re.search(r'nonce="([^"]+)"', challenge.headers["www-authenticate"])
    assert found
    nonce = found[1]

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    first, second = digest(f"{USER}:SluiceFS:{PASSWORD}"), digest("PROPFIND:/")
    response = digest(f"{first}:{nonce}:00000001:abc:auth:{second}")
    login = (
        f'Digest username="{USER}", realm="SluiceFS", nonce="{nonce}", uri="/", qop=auth, nc=00000001, '
        f'cnonce="abc", algorithm=SHA-256, response="{response}"'
    )
    assert door.ask("PROPFIND", "/", {"Depth": "0"}, login=login).status == 207
    again = door.ask("PROPFIND", "/", {"Depth": "0"}, login=login)
    assert again.status == 401 and "stale=true" in again.headers["www-authenticate"]


def test_a_read_only_door_changes_nothing(meta_url: str, door: Door) -> None:
    door.put("/ro", b"1")
    with Door(meta_url, "--read-only") as closed:
        assert closed.ask("OPTIONS", "/").headers["dav"] == "1"
        assert closed.ask("GET", "/ro").body == b"1"
        for method in ("PUT", "DELETE", "MKCOL", "LOCK", "PROPPATCH", "COPY", "MOVE"):
            assert closed.ask(method, "/ro", {"Destination": "/ro2"}, b"").status == 403


def test_each_user_sees_a_root_of_its_own(meta_url: str, door: Door) -> None:
    door.ask("MKCOL", "/home")
    door.ask("MKCOL", f"/home/{USER}")
    door.put("/outside", b"secret")
    with Door(meta_url, "--user-root", "/home/%u") as private:
        assert private.put("/mine", b"1").status == 201
        assert door.ask("GET", f"/home/{USER}/mine").body == b"1"
        assert private.ask("GET", "/outside").status == 404
        assert private.ask("GET", "/../outside").status == 400
        assert private.ask("COPY", "/mine", {"Destination": "/copy"}).status == 201
        token = private.lock("/mine").headers["lock-token"]
        assert door.put(f"/home/{USER}/mine", b"2").status == 423
        assert private.ask("UNLOCK", "/mine", {"Lock-Token": token}).status == 204


def test_pages_of_other_sites_change_nothing_unless_allowed(meta_url: str, door: Door) -> None:
    assert door.ask("PUT", "/origin", {"Origin": "https://evil.example"}, b"x").status == 403
    assert door.ask("PUT", "/origin", {"Origin": door.url}, b"x").status in (201, 204)
    with Door(meta_url, "--cors-allow-origin", "https://app.example") as open_door:
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
        found = open_door.ask("OPTIONS", "/origin", asked, login=None)
        assert found.headers["access-control-allow-origin"] == "https://app.example"
        assert "PROPFIND" in found.headers["access-control-allow-methods"]
        assert open_door.ask("PUT", "/origin", {"Origin": "https://app.example"}, b"y").status in (201, 204)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    '<propfind xmlns="DAV:"><prop><x>&b;</x></prop></propfind>'
)


def test_hostile_documents_are_refused(door: Door) -> None:
    door.put("/xml")
    deep = '<propfind xmlns="DAV:"><prop>' + "<a>" * 40 + "</a>" * 40 + "</prop></propfind>"
    wide = '<propfind xmlns="DAV:"><prop>' + "<a/>" * 5000 + "</prop></propfind>"
    outside = '<!DOCTYPE x SYSTEM "file:///etc/passwd"><propfind xmlns="DAV:"><allprop/></propfind>'
    for body in (BOMB, deep, wide, outside, "<no", '<a xmlns:x=""/>', "text"):
        for method in ("PROPFIND", "PROPPATCH", "LOCK"):
            assert door.ask(method, "/xml", {"Depth": "0"}, body).status == 400, (method, body[:40])
    assert door.ask("PROPFIND", "/xml", {"Depth": "0", "Content-Length": str(2 << 20)}, None).status == 413


def test_two_lengths_of_one_body_are_refused(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port)) as raw:
        raw.settimeout(10)
        raw.sendall(
            f"PUT /smuggle HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC}\r\nContent-Length: 3\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
        )
        assert b" 400 " in raw.recv(4096).split(b"\r\n")[0]


def test_conditions_are_judged_before_the_body_is_asked_for(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port)) as raw:
        raw.settimeout(10)
        raw.sendall(
            f"PUT /no/parent HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC}\r\nContent-Length: 3\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert b" 409 " in raw.recv(4096).split(b"\r\n")[0]


def test_unknown_methods_are_named(door: Door) -> None:
    for method in ("POST", "TRACE", "SEARCH"):
        found = door.ask(method, "/", body=b"")
        assert found.status == 405 and "PROPFIND" in found.headers["allow"]

# SPDX-License-Identifier: Apache-2.0
"""Locks: who needs a token where, two servers over one volume, restarts, timeouts, the If header."""

from __future__ import annotations

from tests.gateways.webdav.door import Door, token_of

D = "{DAV:}"


def test_a_lock_of_one_server_holds_on_the_other_and_survives_a_restart(door: Door, other_door: Door) -> None:
    door.put("/shared", b"1")
    answer = door.lock("/shared")
    assert answer.status == 200 and answer.headers["lock-token"].startswith("<urn:uuid:")
    token = token_of(answer)
    refused = other_door.put("/shared", b"2")
    assert refused.status == 423 and b"lock-token-submitted" in refused.body
    assert other_door.lock("/shared").status == 423
    shown = other_door.ask("PROPFIND", "/shared", {"Depth": "0"})
    assert f"{token}" in shown.texts(D + "href") and "mailto:a@example.org" in shown.texts(D + "href")
    other_door.kill()
    other_door.start()
    assert other_door.put("/shared", b"2").status == 423
    assert other_door.put("/shared", b"2", If=f"(<{token}>)").status == 204
    assert other_door.ask("UNLOCK", "/shared", {"Lock-Token": f"<{token}>"}).status == 204
    assert door.put("/shared", b"3").status == 204


def test_depth_decides_what_a_lock_covers(door: Door) -> None:
    door.ask("MKCOL", "/zero")
    door.ask("MKCOL", "/zero/in")
    token = token_of(door.lock("/zero", depth="0"))
    held = {"If": f"</zero> (<{token}>)"}
    assert door.put("/zero/new").status == 423, "a member would be added"
    assert door.ask("PUT", "/zero/new", held, b"x").status == 201
    assert door.put("/zero/new", b"y").status == 204, "the member itself is not locked"
    assert door.put("/zero/in/file").status == 201
    assert door.ask("DELETE", "/zero/new").status == 423
    assert door.ask("UNLOCK", "/zero", {"Lock-Token": f"<{token}>"}).status == 204
    token = token_of(door.lock("/zero", depth="infinity"))
    assert door.put("/zero/in/file").status == 423
    assert door.ask("PUT", "/zero/in/file", {"If": f"(<{token}>)"}, b"z").status == 204
    assert door.lock("/zero/in/file").status == 423
    assert door.ask("UNLOCK", "/zero/in/file", {"Lock-Token": f"<{token}>"}).status == 204


def test_a_locked_member_keeps_its_collection(door: Door) -> None:
    door.ask("MKCOL", "/tree")
    door.put("/tree/held")
    token = token_of(door.lock("/tree/held"))
    found = door.ask("DELETE", "/tree")
    assert found.status == 207 and found.texts(D + "href") == ["/tree/held"]
    assert "423" in found.texts(D + "status")[0]
    assert door.ask("MOVE", "/tree", {"Destination": "/tree2"}).status == 423
    assert door.ask("GET", "/tree/held").status == 200
    assert door.ask("DELETE", "/tree", {"If": f"</tree/held> (<{token}>)"}).status == 204
    assert door.put("/tree").status == 201, "the locks went with the tree"


def test_locking_a_name_that_is_free_makes_an_empty_file(door: Door) -> None:
    answer = door.lock("/unmapped")
    assert answer.status == 201
    assert door.ask("GET", "/unmapped").body == b""
    token = token_of(answer)
    refreshed = door.ask("LOCK", "/unmapped", {"If": f"(<{token}>)", "Timeout": "Second-100"})
    assert refreshed.status == 200 and refreshed.texts(D + "timeout")[0] in ("Second-100", "Second-99")
    assert door.ask("LOCK", "/unmapped", {"If": "(<urn:uuid:no>)"}).status == 412
    assert door.ask("LOCK", "/unmapped").status == 400
    assert door.ask("UNLOCK", "/unmapped").status == 400
    assert door.ask("UNLOCK", "/unmapped", {"Lock-Token": "<urn:uuid:no>"}).status == 409
    assert door.lock("/none/below").status == 409
    assert door.ask("UNLOCK", "/unmapped", {"Lock-Token": f"<{token}>"}).status == 204


def test_shared_locks_live_together(door: Door) -> None:
    door.put("/both")
    first, second = token_of(door.lock("/both", scope="shared")), token_of(door.lock("/both", scope="shared"))
    assert first != second
    assert door.lock("/both").status == 423
    assert door.put("/both").status == 423
    assert door.ask("PUT", "/both", {"If": f"(<{first}>)"}, b"2").status == 204
    for token in (first, second):
        assert door.ask("UNLOCK", "/both", {"Lock-Token": f"<{token}>"}).status == 204


def test_the_if_header_is_evaluated_everywhere(door: Door) -> None:
    etag = door.put("/if", b"1").etag
    assert door.ask("GET", "/if", {"If": f"([{etag}])"}).status == 200
    assert door.ask("GET", "/if", {"If": '(["other"])'}).status == 412
    assert door.ask("GET", "/if", {"If": "(Not <DAV:no-lock>)"}).status == 200
    assert door.ask("GET", "/if", {"If": "(<DAV:no-lock>)"}).status == 412
    assert door.ask("GET", "/if", {"If": f'(["other"]) ([{etag}])'}).status == 200
    assert door.ask("GET", "/if", {"If": f"<{door.url}/if> ([{etag}])"}).status == 200
    assert door.ask("GET", "/if", {"If": f"<http://elsewhere.example/if> ([{etag}])"}).status == 412
    for bad in ("", "()", "(<a)", "<x>", f"([{etag}]) <u> ([{etag}])", "nonsense", "(Not Not <a>)"):
        expected = 200 if bad == "" else 400
        assert door.ask("GET", "/if", {"If": bad} if bad else {}).status == expected, bad

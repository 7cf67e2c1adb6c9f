# SPDX-License-Identifier: Apache-2.0
"""What RFC 4918 and the specification say of single requests, section by section, beyond litmus.

Source: spec webdav §2–§15; RFC 4918, RFC 4331, RFC 8144.
"""

from __future__ import annotations

import threading

import pytest

from tests.gateways.webdav.door import Answer, Door, token_of

D = "{DAV:}"
LOCKINFO = '<lockinfo xmlns="DAV:"><lockscope><{}/></lockscope><locktype><{}/></locktype></lockinfo>'


def codes(found: Answer) -> list[str]:
    return [text.split(" ")[1] for text in found.texts(D + "status")]


def test_options_say_what_each_kind_of_resource_takes(door: Door) -> None:  # §3
    door.put("/o", b"")
    door.ask("MKCOL", "/o-dir")
    file, folder, nothing = (door.ask("OPTIONS", path) for path in ("/o", "/o-dir/", "/o-none"))
    assert file.headers["dav"] == "1, 2, 3, sabredav-partialupdate" and file.headers["accept-ranges"] == "bytes"
    assert "PATCH" in file.headers["allow"] and "PUT" not in folder.headers["allow"]
    assert nothing.headers["allow"] == "OPTIONS, PUT, MKCOL, LOCK"
    for found in (file, folder, nothing):
        assert found.status == 200 and found.headers["content-length"] == "0"
        assert found.headers["ms-author-via"] == "DAV" and found.headers["public"] == found.headers["allow"]
    assert door.ask("OPTIONS", "*").status == 200


def test_a_trailing_slash_is_forgiven_both_ways(door: Door) -> None:  # §2.1
    door.put("/slash", b"1")
    assert door.ask("GET", "/slash/").body == b"1"
    assert door.put("/slash/", b"2").status == 204
    assert door.ask("DELETE", "/slash/").status == 204
    door.ask("MKCOL", "/slashed/")
    found = door.ask("PROPFIND", "/slashed", {"Depth": "0"})
    assert found.headers["content-location"] == "/slashed/" and found.texts(D + "href") == ["/slashed/"]
    assert door.ask("HEAD", "/slashed").headers["content-type"] == "httpd/unix-directory"
    assert door.ask("GET", "//slashed///").status == 207, "doubled slashes are one"


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("COPY", {"Depth": "1"}, 400), ("COPY", {"Depth": "0"}, 201), ("MOVE", {"Depth": "0"}, 400),
        ("MOVE", {"Depth": "1"}, 400), ("COPY", {"Overwrite": "X"}, 400), ("COPY", {"Depth": "nonsense"}, 400),
        ("DELETE", {"Depth": "1"}, 400), ("DELETE", {"Depth": "infinity"}, 204), ("PROPFIND", {"Depth": "-1"}, 400),
        ("PROPFIND", {"Depth": "1,noroot"}, 207), ("MKCOL", {}, 405), ("PUT", {}, 405), ("PATCH", {}, 405),
    ],
)  # fmt: skip
def test_depth_and_overwrite(door: Door, method: str, headers: dict[str, str], expected: int) -> None:  # §5, §10, §11
    door.ask("MKCOL", "/depth")
    door.put("/depth/in", b"")
    door.ask("DELETE", "/depth-to")
    found = door.ask(
        method, "/depth", {"Destination": "/depth-to", **headers}, b"" if method in ("PUT", "PATCH") else None
    )
    assert found.status == expected, found.body


def test_overwriting_replaces_whatever_stands_there(door: Door) -> None:  # §11
    def fresh() -> None:
        for path in ("/w-file", "/w-dir"):
            door.ask("DELETE", path)
        door.put("/w-file", b"file")
        door.ask("MKCOL", "/w-dir")
        door.put("/w-dir/in", b"in")

    for method in ("COPY", "MOVE"):
        fresh()
        assert door.ask(method, "/w-file", {"Destination": "/w-dir"}).status == 204
        assert door.ask("GET", "/w-dir").body == b"file"
        assert door.ask("HEAD", "/w-file").status == (200 if method == "COPY" else 404)
        fresh()
        assert door.ask(method, "/w-dir/", {"Destination": "/w-file"}).status == 204
        assert door.ask("GET", "/w-file/in").body == b"in"
        fresh()
        for source, target in (("/w-file", "/w-dir"), ("/w-dir", "/w-file")):
            assert door.ask(method, source, {"Destination": target, "Overwrite": "F"}).status == 412
        assert door.ask("GET", "/w-dir/in").body == b"in" and door.ask("GET", "/w-file").body == b"file"
    assert door.ask("MOVE", "/w-file", {"Destination": "/w-file"}).status == 403
    assert door.ask("COPY", "/w-dir/in", {"Destination": "/w-dir"}).status == 403
    assert door.ask("COPY", "/", {"Destination": "/w-root"}).status == 403
    assert door.ask("MOVE", "/", {"Destination": "/w-root"}).status == 403


def test_locks_of_other_kinds_and_times(door: Door) -> None:  # §12.1
    assert door.ask("LOCK", "/kind", body=LOCKINFO.format("exclusive", "read")).status == 422
    assert door.ask("GET", "/kind").status == 404, "a refused lock makes no file"
    for asked, got in (
        ("Second-100", range(98, 101)), ("Infinite, Second-4100000000", range(86_398, 86_401)), ("", range(1798, 1801)),
        ("nonsense, Second-7", range(5, 8)), ("Second-99999999999999", range(86_398, 86_401)),
    ):  # fmt: skip
        found = door.ask("LOCK", "/kind", {"Timeout": asked} if asked else {}, LOCKINFO.format("exclusive", "write"))
        assert int(found.texts(D + "timeout")[0].removeprefix("Second-")) in got, asked
        assert found.headers["lock-token"] == f"<{found.texts(D + 'locktoken')[0] or found.texts(D + 'href')[0]}>"
        assert found.texts(D + "depth") == ["infinity"] and found.texts(D + "href")[-1] == "/kind"
        assert door.ask("UNLOCK", "/kind", {"Lock-Token": found.headers["lock-token"]}).status == 204
    assert door.ask("LOCK", "/kind", {"Depth": "1"}, LOCKINFO.format("exclusive", "write")).status == 400


def test_a_lock_on_a_free_name_needs_its_collection(door: Door) -> None:  # §12.1
    door.ask("MKCOL", "/parent")
    token = token_of(door.lock("/parent", depth="0"))
    refused = door.lock("/parent/new")
    assert refused.status == 423 and door.ask("GET", "/parent/new").status == 404
    made = door.lock("/parent/new", If=f"</parent> (<{token}>)")
    assert made.status == 201 and door.ask("GET", "/parent/new").status == 200
    for lock, path in ((token_of(made), "/parent/new"), (token, "/parent")):
        assert door.ask("UNLOCK", path, {"Lock-Token": f"<{lock}>"}).status == 204
    assert door.ask("GET", "/parent/new").status == 200, "the empty file stays"


def test_a_refresh_may_name_any_covered_resource(door: Door) -> None:  # §12.4
    door.ask("MKCOL", "/cover")
    door.put("/cover/in", b"")
    token = token_of(door.lock("/cover"))
    found = door.ask("LOCK", "/cover/in", {"If": f"(<{token}>)", "Timeout": "Second-50"})
    assert found.status == 200 and "lock-token" not in found.headers
    assert found.texts(D + "timeout")[0] in ("Second-50", "Second-49")
    door.put("/beside", b"")
    wrong = door.ask("LOCK", "/beside", {"If": f"(<{token}>)"})
    assert wrong.status == 412
    other = door.ask("UNLOCK", "/beside", {"Lock-Token": f"<{token}>"})
    assert other.status == 409 and b"lock-token-matches-request-uri" in other.body
    for bad in ("", "<>", "<urn:uuid:x", "nonsense"):
        assert door.ask("UNLOCK", "/cover", {"Lock-Token": bad}).status == 400, bad
    assert door.ask("UNLOCK", "/cover/in", {"Lock-Token": f"<{token}>"}).status == 204
    assert door.put("/cover/in", b"free").status == 204


def test_conflicts_name_the_lock_in_the_way(door: Door) -> None:  # §12.1, §13
    door.ask("MKCOL", "/conf")
    door.put("/conf/f", b"")
    token = token_of(door.lock("/conf/f", depth="0"))
    above = door.lock("/conf")
    assert above.status == 423 and above.texts(D + "href") == ["/conf/f"] and b"no-conflicting-lock" in above.body
    assert door.lock("/conf", depth="0").status == 200
    discovered = door.ask("PROPFIND", "/conf", {"Depth": "0"}).texts(D + "href")
    flat = next(text for text in discovered if text.startswith("urn:uuid:"))
    moved = door.ask("MOVE", "/conf/f", {"Destination": "/conf/g", "If": f"</conf/f> (<{token}>)"})
    assert moved.status == 423 and moved.texts(D + "href") == ["/conf"], "a member would go and another come"
    both = f"</conf/f> (<{token}>) </conf> (<{flat}>)"
    assert door.ask("MOVE", "/conf/f", {"Destination": "/conf/g", "If": both}).status == 201
    assert door.put("/conf/g", b"x").status == 204, "locks don't travel"
    assert door.ask("UNLOCK", "/conf", {"Lock-Token": f"<{flat}>"}).status == 204


def test_what_moves_under_a_lock_is_under_it(door: Door) -> None:  # §11, §12
    for path in ("/under", "/loose"):
        door.ask("MKCOL", path)
    door.put("/loose/f", b"")
    token = token_of(door.lock("/under"))
    for method in ("COPY", "MOVE"):
        assert door.ask(method, "/loose/f", {"Destination": "/under/f"}).status == 423
        assert (
            door.ask(method, "/loose/f", {"Destination": "/under/" + method, "If": f"</under> (<{token}>)"}).status
            == 201
        )
        assert door.put("/under/" + method, b"").status == 423
        door.put("/loose/f", b"")
    assert door.ask("COPY", "/under/COPY", {"Destination": "/loose/back"}).status == 201, "reading needs no token"
    assert door.ask("UNLOCK", "/under", {"Lock-Token": f"<{token}>"}).status == 204


def test_tagged_lists_are_judged_for_their_resources(door: Door) -> None:  # §13
    etag = door.put("/tag-a", b"a").etag
    door.put("/tag-b", b"b")
    token = token_of(door.lock("/tag-b"))

    def put(condition: str) -> int:
        return door.ask("PUT", "/tag-b", {"If": condition}, b"new").status

    here = door.url
    assert put(f"<{here}/tag-b> (<{token}>)") == 204
    assert put(f"</tag-b> (<{token}>) </tag-a> ([{etag}])") == 204
    assert put(f"</tag-a> ([{etag}])") == 423, "true, but no token was submitted"
    assert put(f"</tag-a> ([{etag}] <{token}>)") == 412, "the token is not of that resource"
    assert put(f'</tag-a> (["other"]) </tag-b> (<{token}>)') == 204, "one true list is enough"
    assert put(f'</tag-a> (["other"]) <http://other.example/tag-b> (<{token}>)') == 412
    assert put(f'</no-such> (Not <{token}> Not ["x"])') == 204, "submitted under Not is submitted"
    assert put(f"(<{token}> [{etag}])") == 412
    assert put(f"(<{token}>) (Not <DAV:no-lock>)") == 204
    assert put(f"</.sys/x> (<{token}>) </tag-b> (<{token}>)") == 204
    assert door.ask("UNLOCK", "/tag-b", {"Lock-Token": f"<{token}>"}).status == 204
    assert put("(<urn:uuid:00000000-0000-4000-8000-000000000000>)") == 412
    assert put("(Not <urn:uuid:00000000-0000-4000-8000-000000000000>)") == 204


def test_conditions_hold_for_methods_of_names_too(door: Door) -> None:  # §14
    etag = door.put("/cond", b"1").etag
    for method in ("DELETE", "MOVE", "COPY", "PROPPATCH", "LOCK"):
        body = '<propertyupdate xmlns="DAV:"/>' if method == "PROPPATCH" else LOCKINFO.format("shared", "write")
        sent = body if method in ("PROPPATCH", "LOCK") else None
        found = door.ask(method, "/cond", {"Destination": "/cond2", "If-Match": '"no"'}, sent)
        assert found.status == 412, method
        found = door.ask(method, "/cond", {"Destination": "/cond2", "If-None-Match": f'"x", {etag}'}, sent)
        assert found.status == 412, method
    assert door.ask("MOVE", "/cond", {"Destination": "/cond2", "If-Match": f'"x", {etag}'}).status in (201, 204)
    assert door.ask("LOCK", "/cond2", {"If-None-Match": "*"}, LOCKINFO.format("shared", "write")).status == 412
    assert door.ask("HEAD", "/cond2", {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}).status == 304
    assert door.ask("PUT", "/cond2", {"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, b"x").status == 412


def test_propfind_asks_for_everything_names_and_more(door: Door) -> None:  # §5
    door.put("/all", b"123")
    every = door.ask("PROPFIND", "/all", {"Depth": "0"}, "")
    assert codes(every) == ["200"] and not every.texts(D + "quota-used-bytes")
    assert every.texts(D + "getcontentlength") == ["3"] and every.texts(D + "supportedlock") == [""]
    body = '<propfind xmlns="DAV:"><allprop/><include><quota-used-bytes/></include></propfind>'
    assert door.ask("PROPFIND", "/all", {"Depth": "0"}, body).texts(D + "quota-used-bytes")
    for bad in (
        "<propfind/>", '<propfind xmlns="DAV:"/>', '<propfind xmlns="DAV:"><prop/><allprop/></propfind>',
        '<propertyupdate xmlns="DAV:"/>', '<propfind xmlns="DAV:"><propname/><allprop/></propfind>',
    ):  # fmt: skip
        assert door.ask("PROPFIND", "/all", {"Depth": "0"}, bad).status == 400, bad
    unknown = '<propfind xmlns="DAV:"><x xmlns="urn:future"/><prop><getetag/></prop></propfind>'
    assert codes(door.ask("PROPFIND", "/all", {"Depth": "0"}, unknown)) == ["200"]
    brief = door.ask("PROPFIND", "/", {"Depth": "1", "Prefer": "depth-noroot"})
    assert "/" not in brief.texts(D + "href") and brief.headers["preference-applied"] == "depth-noroot"


def test_proppatch_runs_in_order_and_as_a_whole(door: Door) -> None:  # §6
    door.put("/patch", b"")

    def patch(inner: str) -> Answer:
        return door.ask(
            "PROPPATCH", "/patch", body=f'<propertyupdate xmlns="DAV:" xmlns:x="urn:x">{inner}</propertyupdate>'
        )

    def value(name: str) -> list[str]:
        return door.ask("PROPFIND", "/patch", {"Depth": "0"}).texts("{urn:x}" + name)

    def set_(inner: str) -> str:
        return f"<set><prop>{inner}</prop></set>"

    def remove(inner: str) -> str:
        return f"<remove><prop>{inner}</prop></remove>"

    etag = door.ask("HEAD", "/patch").etag
    assert codes(patch(set_("<x:a>1</x:a><x:b>2</x:b>"))) == ["200"]
    assert codes(patch(set_("<x:a>3</x:a>") + remove("<x:a/>"))) == ["200"] and value("a") == []
    assert codes(patch(remove("<x:b/>") + set_("<x:b>4</x:b>"))) == ["200"] and value("b") == ["4"]
    assert codes(patch(remove("<x:never/>"))) == ["200"], "removing what isn't there succeeds"
    bad = patch(set_("<x:b>5</x:b><getlastmodified>no date</getlastmodified>"))
    assert sorted(codes(bad)) == ["409", "424"] and value("b") == ["4"]
    protected = patch(remove("<getetag/><x:b/>"))
    assert sorted(codes(protected)) == ["403", "424"] and b"cannot-modify-protected-property" in protected.body
    assert sorted(codes(patch(set_("<x:b>5</x:b><resourcetype/>")))) == ["403", "424"] and value("b") == ["4"]
    assert door.ask("HEAD", "/patch").etag == etag, "properties are not content"
    large = patch(set_(f"<x:big>{'y' * 70_000}</x:big>"))
    assert "507" in codes(large) and value("big") == []
    for text in ("1500000000.25", "2017-07-14T02:40:00Z", "Fri, 14 Jul 2017 02:40:00 GMT"):
        found = patch(set_(f"<getlastmodified>{text}</getlastmodified>"))
        assert codes(found) == ["200"] and found.etag == door.ask("HEAD", "/patch").etag != etag
        assert door.ask("HEAD", "/patch").headers["last-modified"] == "Fri, 14 Jul 2017 02:40:00 GMT"
    assert door.ask("PROPPATCH", "/no-such", body='<propertyupdate xmlns="DAV:"/>').status == 404


def test_errors_have_words(door: Door) -> None:  # §15
    for method, path, expected in (("GET", "/none", 404), ("MKCOL", "/none/x", 409), ("DELETE", "/", 403)):
        found = door.ask(method, path)
        assert found.status == expected and found.headers["content-type"] == "text/plain; charset=utf-8"
        assert len(found.body) > 5 and b"Traceback" not in found.body and b"inode" not in found.body


def test_of_many_creations_of_one_name_exactly_one_wins(door: Door, other_door: Door) -> None:  # §24.5
    for method, headers, won, lost in (
        ("MKCOL", {}, 201, 405), ("PUT", {"If-None-Match": "*"}, 201, 412), ("LOCK", {"Depth": "0"}, 201, 423),
    ):  # fmt: skip
        path, results = f"/once-{method}", []

        def one(
            server: Door, method: str = method, path: str = path, headers: dict[str, str] = headers,
            results: list[int] = results,
        ) -> None:  # fmt: skip
            body = {"PUT": "x", "LOCK": LOCKINFO.format("exclusive", "write")}.get(method)
            results.append(server.ask(method, path, headers, body).status)

        threads = [threading.Thread(target=one, args=(server,)) for server in (door, other_door) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count(won) + results.count(200) == 1 or method == "LOCK", results
        assert sum(code in (200, 201) for code in results) == 1, (method, results)
        assert all(code in (won, 200, lost, 412, 409) for code in results), (method, results)


def test_of_many_conditional_updates_exactly_one_wins(door: Door, other_door: Door) -> None:  # §14, §24.5
    etag = door.put("/update", b"0").etag
    results: list[int] = []

    def one(server: Door, number: int) -> None:
        results.append(server.ask("PUT", "/update", {"If-Match": etag}, f"by {number}").status)

    threads = [threading.Thread(target=one, args=((door, other_door)[n % 2], n)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [204] + [412] * 7


def test_a_reader_sees_whole_versions_only(door: Door) -> None:  # §24.4
    versions = [bytes([65 + n]) * 50_000 for n in range(6)]
    door.put("/whole", versions[0])
    done = threading.Event()
    wrong: list[int] = []

    def read() -> None:
        while not done.is_set():
            found = door.ask("GET", "/whole")
            if found.status != 200 or found.body not in versions:
                wrong.append(found.status)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(40):
        door.put("/whole", versions[number % 6])
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong

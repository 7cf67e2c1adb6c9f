# SPDX-License-Identifier: Apache-2.0
"""The directory page in headless Chromium: read, walked, uploaded to, downloaded from; `browser.cjs` are the hands.

Source: spec webdav §7, §20.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.gateways.webdav.door import BASIC, PASSWORD, USER, Door
from tests.gateways.webdav.programs import ODD_NAMES, run, tool
from tests.servers.process import CACHE, missing

MODULES = CACHE / "npm" / "node_modules"
#: Names that a careless page would run, swallow or show as something else.
NASTY = (
    "<script>alert(1)<script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt; &amp;", "javascript:alert(1)",
    "' onclick='alert(1)", "back\\slash", " leading and trailing ", "exe.\u202egnp.txt", "`${1}`", "<\\table><!--",
)  # fmt: skip
#: The one that a browser shows instead of saving it.
PLAIN = "exe.\u202egnp.txt"


class Seen(NamedTuple):
    results: list[Any]
    wrong: list[str]


def browse(door: Door, *steps: list[Any], user: str = USER, **options: Any) -> Seen:
    """The steps of one visit. What the console or the network complained about fails, unless it is asked for."""
    node = tool("node")
    if not (MODULES / "playwright-core").is_dir():
        missing("playwright-core of npm", "tests/tools/install-needs.sh installs it")
    allowed = options.pop("wrong", False)
    job = {"url": door.url, "browser": tool("chromium"), "user": user, "password": PASSWORD, "do": steps, **options}
    program = Path(__file__).with_name("browser.cjs")
    seen = Seen(**json.loads(run([node, str(program), json.dumps(job)], env={"NODE_PATH": str(MODULES)})))
    assert allowed or seen.wrong == []
    return seen


def names(page: dict[str, Any]) -> list[str]:
    return [row[0] for row in page["rows"]]


def test_a_directory_is_read_walked_and_sorted(door: Door) -> None:
    for path in ("/web/", "/web/sub dir/", "/web/sub dir/deeper/", "/web/empty/"):
        door.ask("MKCOL", quote(path))
    door.put("/web/big.bin", b"x" * 2_500_000, **{"X-OC-Mtime": "1000000000"})
    door.put("/web/small.txt", "y", **{"X-OC-Mtime": "1600000000"})
    door.put("/web/Middle.txt", "z" * 3000, **{"X-OC-Mtime": "1300000000"})
    opened, root, _, sub, url, deeper, up, back, _, by_size, _, by_date, _, empty = browse(
        door, ["open", "/web"], ["read"], ["follow", "sub dir/"], ["read"], ["follow", "deeper/"], ["read"],
        ["follow", "web"], ["read"], ["follow", "Size"], ["read"], ["follow", "Changed (UTC)"], ["read"],
        ["follow", "empty/"], ["read"],
    ).results  # fmt: skip
    assert opened["status"] == 200 and "'sha256-" in opened["headers"]["content-security-policy"]
    assert root["url"] == door.url + "/web/" and root["title"] == "web"
    assert names(root) == ["empty/", "sub dir/", "Middle.txt", "big.bin", "small.txt"]
    assert root["rows"][2:] == [
        ["Middle.txt", "2.9 KiB", "2011-03-13 07:06"], ["big.bin", "2.4 MiB", "2001-09-09 01:46"],
        ["small.txt", "1 B", "2020-09-13 12:26"],
    ]  # fmt: skip
    assert re.sub(r"\s", "", root["heading"]) == "davtest/web"
    assert names(sub) == ["deeper/"] and url == door.url + "/web/sub%20dir/deeper/" and names(deeper) == []
    assert up == door.url + "/web/" and names(back) == names(root)
    assert names(by_size)[:3] == ["big.bin", "Middle.txt", "small.txt"]
    files_by_date = [name for name in names(by_date) if not name.endswith("/")]
    assert files_by_date == ["small.txt", "Middle.txt", "big.bin"]
    assert names(empty) == []


def test_every_name_is_shown_as_it_is_and_leads_to_its_file(door: Door) -> None:
    door.ask("MKCOL", "/web%20names/")
    everything = [*ODD_NAMES, *NASTY]
    for name in everything:
        door.put("/web%20names/" + quote(name, safe=""), f"content of {name}")
    nested = [f"/web names/dir{name}" for name in NASTY[:3]]
    _, page, followed, text = browse(
        door, ["open", "/web names/"], ["read"], ["contents"], ["show", PLAIN]
    ).results  # fmt: skip
    assert dict(followed) == {name: f"content of {name}" for name in everything}
    assert text.startswith("content of exe.")  # of what encoding it is nobody told us
    for path in nested:
        door.ask("MKCOL", quote(path))
    visited = browse(door, *[step for path in nested for step in (["open", quote(path) + "/"], ["read"])]).results
    for path, seen in zip(nested, visited[1::2], strict=True):
        assert seen["title"] == path[1:] and seen["heading"].endswith(path.rpartition("/")[2])
    for seen in (page, *visited[1::2]):
        assert (seen["scripts"], seen["images"]) == (1, 0), "only the page's own"


def test_files_are_uploaded_and_downloaded_again(door: Door, tmp_path: Path, rng: random.Random) -> None:
    door.ask("MKCOL", "/web%20up/")
    chosen = ["plain.txt", "with space & umlaut ü.bin", "<script>x.txt", "50% #1?.txt"]
    contents = {name: rng.randbytes(1 + 3_000_000 * (number % 2)) for number, name in enumerate(chosen)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    back = tmp_path / "back"
    back.mkdir()
    _, _, after, _, dropped, *_ = browse(
        door, ["open", "/web up/"], ["upload", *[str(tmp_path / name) for name in chosen]], ["read"],
        ["drop", "dropped.txt", "dropped here"], ["read"],
        *[["download", name, str(back / str(number))] for number, name in enumerate(chosen)],
    ).results  # fmt: skip
    assert sorted(names(after)) == sorted(chosen) and sorted(names(dropped)) == sorted([*chosen, "dropped.txt"])
    for number, (name, content) in enumerate(contents.items()):
        assert (back / str(number)).read_bytes() == content
        assert door.ask("GET", "/web%20up/" + quote(name)).body == content
    assert door.ask("GET", "/web%20up/dropped.txt").body == b"dropped here"


def test_an_existing_file_is_replaced_only_if_the_person_says_so(door: Door, tmp_path: Path) -> None:
    door.ask("MKCOL", "/web-asked/")
    door.put("/web-asked/kept.txt", "old")
    (tmp_path / "kept.txt").write_text("new")
    _, refused, page, _, accepted = browse(
        door, ["open", "/web-asked/"], ["choose", str(tmp_path / "kept.txt"), False], ["contents"],
        ["open", "/web-asked/"], ["choose", str(tmp_path / "kept.txt"), True],
    ).results  # fmt: skip
    assert refused["asked"] == accepted["asked"] == "Replace “kept.txt”?"
    assert dict(page) == {"kept.txt": "old"}
    assert door.ask("GET", "/web-asked/kept.txt").body == b"new"


def test_a_refused_upload_says_why(door: Door, tmp_path: Path) -> None:
    door.ask("MKCOL", "/web-locked/")
    token = door.lock("/web-locked/").headers["lock-token"]
    (tmp_path / "new.txt").write_text("new")
    seen = browse(door, ["open", "/web-locked/"], ["refused", str(tmp_path / "new.txt")], wrong=True)
    assert "new.txt: " in seen.results[1] and "(423)" in seen.results[1]
    assert [text for text in seen.wrong if "423" not in text] == []
    door.ask("UNLOCK", "/web-locked/", {"Lock-Token": token})


def test_pages_need_no_script_and_none_who_may_not_write_sees_an_upload(door: Door, meta_url: str) -> None:
    door.put("/web-plain.txt", "plain")
    _, page = browse(door, ["open", "/"], ["read"], script=False).results
    assert "web-plain.txt" in names(page)
    with Door(meta_url, "--read-only") as reading:
        _, page = browse(reading, ["open", "/"], ["read"]).results
        assert (page["uploads"], page["scripts"]) == (0, 0) and "web-plain.txt" in names(page)


@pytest.mark.heavy
def test_many_entries_come_in_pages_on_any_screen(door: Door) -> None:
    door.ask("MKCOL", "/web-many/")
    connection = door.connect()
    for number in range(1003):
        connection.request("PUT", f"/web-many/{number:04d}", b"", {"Authorization": BASIC})
        connection.getresponse().read()
    connection.close()
    door.ask("MKCOL", "/web-many/" + "long-name-without-any-space" * 8)
    _, wide, first, _, second = browse(
        door, ["open", "/web-many/"], ["overflow"], ["read"], ["follow", "Next 1000"], ["read"], width=360
    ).results  # fmt: skip
    assert wide == 0, "nothing to scroll sideways on a telephone"
    assert len(first["rows"]) == 1000 and names(second)[:3] == ["1000", "1001", "1002"] and len(second["rows"]) == 4

# SPDX-License-Identifier: Apache-2.0
"""Lines that somebody can paste once a WebDAV door is open: how each kind of client gets in.

docs/webdav.md says more about each; tests run the lines that a test machine can run.
"""

from __future__ import annotations

from urllib.parse import urlsplit


def ways_in(url: str, user: str = "") -> str:
    """url: of the door, with a slash at its end. user: a name to log in with, "" if nobody has to."""
    parts = urlsplit(url)
    host, secure = parts.netloc, parts.scheme == "https"
    if parts.hostname in ("0.0.0.0", "::", ""):  # noqa: S104 - it listens everywhere; clients need a name
        host = f"HOST:{parts.port}"
        url = f"{parts.scheme}://{host}{parts.path}"
    login = f" -u {user}" if user else ""
    rclone = f' --webdav-user {user} --webdav-pass "$(rclone obscure PASSWORD)"' if user else ""
    net = f" /user:{user} *" if user else ""
    return f"""\
  curl           curl{login} -T FILE {url}
  rclone         rclone lsf --webdav-url {url} --webdav-vendor other{rclone} :webdav:
  Linux, davfs2  mount -t davfs {url} /mnt/dav
  Linux, GNOME   gio mount {"davs" if secure else "dav"}://{host}{parts.path}
  macOS          Finder, Go, Connect to Server: {url}
  Windows        net use * {url.rstrip("/")}{net}
  a browser      {url}"""

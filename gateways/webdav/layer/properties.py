# SPDX-License-Identifier: Apache-2.0
"""WsgiDAV's property manager over the volume: dead properties by path, in the attribute of `properties/dead.py`.

Our resources answer property requests themselves, whole requests at a time; this is the same store by name, for
whatever else in WsgiDAV asks. They lie on the inode, so copies and moves need nothing. Source: spec webdav §23.1.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

from gateways.webdav.layer.context import KEY, Context
from gateways.webdav.layer.library import DAVError
from gateways.webdav.names import from_layer
from gateways.webdav.properties import dead, store
from gateways.webdav.xmltext import LANG, inner_xml, split_tag


class VolumePropertyManager:
    """Stateless; `environ` says whose request it is."""

    @staticmethod
    def _properties(norm_url: str, environ: dict[str, Any]) -> tuple[Context, int, dict[dead.Name, dead.Dead]]:
        context: Context = environ[KEY]
        node = context.node(from_layer(norm_url)[len(context.export.root) :])
        if node is None:
            raise DAVError(404)
        return context, node.ino, dead.shown((node.found.xattrs or {}).get(dead.X_DEAD), node.ino)

    def get_properties(self, norm_url: str, environ: dict[str, Any]) -> list[str]:
        return [f"{{{space}}}{local}" for space, local in self._properties(norm_url, environ)[2]]

    def get_property(self, norm_url: str, name: str, environ: dict[str, Any]) -> str | None:
        found = self._properties(norm_url, environ)[2].get(split_tag(name))
        return None if found is None else found.inner

    def write_property(
        self, norm_url: str, name: str, property_value: Element, dry_run: bool = False,
        environ: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        assert environ is not None
        context, ino, _ = self._properties(norm_url, environ)
        if not dry_run:
            value = dead.Dead(inner_xml(property_value), property_value.get(LANG, ""))
            context.wait(store.change(context.export.fs, ino, {split_tag(name): value}))

    def remove_property(
        self, norm_url: str, name: str, dry_run: bool = False, environ: dict[str, Any] | None = None
    ) -> None:
        assert environ is not None
        context, ino, _ = self._properties(norm_url, environ)
        if not dry_run:
            context.wait(store.change(context.export.fs, ino, {split_tag(name): None}))

    def remove_properties(self, norm_url: str, environ: dict[str, Any]) -> None:
        """They go with the inode."""

    def copy_properties(self, src_url: str, dest_url: str, environ: dict[str, Any]) -> None:
        """A clone has them."""

    def move_properties(self, src_url: str, dest_url: str, with_children: bool, environ: dict[str, Any]) -> None:
        """A rename keeps them."""

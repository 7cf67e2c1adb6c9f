# SPDX-License-Identifier: Apache-2.0
"""All metadata of a volume in one file, and back: JSON dump, binary backup, load, automatic backups.

Reads and writes records through the record-store contract only, so a dump of any engine loads into any other.
Memory is bounded whatever the volume's size: dumps stream, loads go through a scratch table on disk.
Source: spec metadata-semantics §15. Imports nothing above `core`.
"""

# SPDX-License-Identifier: Apache-2.0
"""One file per command. Each parses its options, calls `core` or a gateway, and prints through `sluicefs.output`."""

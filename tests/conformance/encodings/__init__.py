# SPDX-License-Identifier: Apache-2.0
"""Every compression with every encryption, both layouts of keys, one bucket and several: written, read back whole by
another process, cleaned up and proven."""

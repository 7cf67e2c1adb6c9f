# SPDX-License-Identifier: Apache-2.0
"""Write locks: which paths are locked by whom (`table.py`, pure), and how all servers agree on it (`service.py`)."""

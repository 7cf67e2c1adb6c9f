# SPDX-License-Identifier: Apache-2.0
"""Properties: those clients store (`dead.py`, `store.py`), those we compute (`live.py`), those they may set
(`patch.py`)."""

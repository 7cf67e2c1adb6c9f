# SPDX-License-Identifier: Apache-2.0
"""One suite of the record-store contract for every database; `suite.py` puts its parts together."""

import pytest

# The parts of the suite are no test files themselves; without this a failure would not show its values.
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in ("records", "transactions", "navigation", "suite")))

# SPDX-License-Identifier: Apache-2.0
"""One suite of file-system semantics for every record store; `suite.py` puts its parts together."""

from pathlib import Path

import pytest

# The parts of the suite are no test files themselves; without this a failure would not show its values.
pytest.register_assert_rewrite(*(f"{__name__}.{path.stem}" for path in Path(__file__).parent.glob("[a-su-z]*.py")))

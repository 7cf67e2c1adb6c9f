# SPDX-License-Identifier: Apache-2.0
"""Words shared by every door: who calls, and under which condition a name may change."""

from core.meta.caller import ROOT_CALLER, Caller, Condition

__all__ = ["ROOT_CALLER", "Caller", "Condition"]

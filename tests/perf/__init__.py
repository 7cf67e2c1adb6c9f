# SPDX-License-Identifier: Apache-2.0
"""Promises about memory and rates, kept by real processes against real servers."""

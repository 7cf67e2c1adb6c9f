# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes driver: will live here (see README.md in this folder). Nothing of it works yet.

May import `core` and `gateways`, never `sluicefs`.
"""

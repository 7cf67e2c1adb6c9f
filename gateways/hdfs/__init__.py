# SPDX-License-Identifier: Apache-2.0
"""The HDFS door: will live here.

Native Hadoop RPC and data transfer with stateless signed block tokens, and WebHDFS, for unmodified Hadoop clients.
Nothing of it works yet.
"""

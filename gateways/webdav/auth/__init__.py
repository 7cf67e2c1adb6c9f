# SPDX-License-Identifier: Apache-2.0
"""Who may come in: users and their rights (`users.py`), Basic and Digest (`basic.py`, `digest.py`), and the brake on
guessing (`throttle.py`). Source: spec webdav §16."""

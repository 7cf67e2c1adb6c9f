# SPDX-License-Identifier: Apache-2.0
"""One SSH connection with one SFTP session, made when needed and again when it broke.

Requests of many callers share it; the protocol numbers them. Keys come from SSH_PRIVATE_KEY_PATH, else from ~/.ssh and
the agent. Errors at connecting name what to check. Source: spec data-path §4.2; asyncssh's documentation.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncssh

from core.errors import ConfigError, ObjectError
from core.object.sftp.address import Address

CONNECT_TIMEOUT_S: Final = 10.0
LOGIN_TIMEOUT_S: Final = 20.0
#: A machine that vanished without a word is noticed after half a minute.
KEEPALIVE_S: Final = 10.0
#: AES-GCM is done by the processor; chacha20, which OpenSSH prefers, costs twice as much.
CIPHERS: Final = (
    "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr", "aes128-ctr",
)  # fmt: skip
#: Bytes that may be on their way to us. asyncssh's own 2 MiB fill a link of 50 ms to 40 MB/s only.
WINDOW_BYTES: Final = 8 << 20

LOST: Final = (
    asyncssh.DisconnectError, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.ChannelOpenError,
    ConnectionError,
)  # fmt: skip


class Link:
    """`session()` gives the SFTP client. Belongs to the event loop that uses it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._session: Any = None
        self._connecting: asyncio.Lock = asyncio.Lock()

    async def session(self) -> Any:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._connection, self._session, self._connecting = loop, None, None, asyncio.Lock()
        if self._session is None:
            async with self._connecting:
                if self._session is None:
                    await self._connect()
        return self._session

    def drop(self, session: Any) -> bool:
        """Forget a session that broke; True if it was the one in use until now."""
        if session is not self._session:
            return False
        self._session = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        return True

    async def close(self) -> None:
        self._session = None
        connection, self._connection = self._connection, None
        if connection is not None and asyncio.get_running_loop() is self._loop:
            connection.close()
            try:
                async with asyncio.timeout(2):
                    await connection.wait_closed()
            except TimeoutError:
                connection.abort()

    async def _connect(self) -> None:
        at = self._address
        options: dict[str, Any] = {
            "username": at.user,
            "known_hosts": at.known_hosts or None,
            "config": None,
            "encryption_algs": CIPHERS,
            "window": WINDOW_BYTES,
            "compression_algs": ["none"],  # blocks are compressed already, or meant to stay as they are
            "connect_timeout": CONNECT_TIMEOUT_S,
            "login_timeout": LOGIN_TIMEOUT_S,
            "keepalive_interval": KEEPALIVE_S,
            "keepalive_count_max": 3,
        }
        if at.password:
            options["password"] = at.password
        if at.key_file:
            options["client_keys"] = [at.key_file]
            options["agent_path"] = None
        connection = None
        try:
            connection = await asyncssh.connect(at.host, at.port, **options)
            self._session = await connection.start_sftp_client()
            self._connection = connection
        except BaseException as error:
            if connection is not None:
                connection.abort()
            if isinstance(error, asyncssh.Error | asyncssh.KeyImportError | OSError | ValueError | TimeoutError):
                raise self._explain(error) from error
            raise

    def _explain(self, error: BaseException) -> Exception:
        at, head = self._address, f"{self._address.where}: can't connect as {self._address.user}"
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if at.password:
            said = said.replace(at.password, "****")
        if isinstance(error, asyncssh.KeyImportError | asyncssh.KeyEncryptionError) or (
            isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError) and error.filename
        ):
            name = getattr(error, "filename", "") or at.key_file
            which = "SSH_KNOWN_HOSTS" if isinstance(error, OSError) and name != at.key_file else "SSH_PRIVATE_KEY_PATH"
            advice = "name a readable file" if isinstance(error, OSError) else "name a private key without pass phrase"
            return ConfigError(f"{which}={name}: {said}; {advice}, or put the key into an agent (SSH_AUTH_SOCK)")
        if isinstance(error, asyncssh.PermissionDenied):
            return ObjectError(
                f"{head}: the server refuses this user, password or key ({said}); check --access-key, --secret-key and "
                "SSH_PRIVATE_KEY_PATH",
                retryable=False,
            )
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return ObjectError(
                f"{head}: the host key is not the known one ({said}); add it to SSH_KNOWN_HOSTS={at.known_hosts} if it "
                "is right",
                retryable=False,
            )
        if isinstance(error, asyncssh.ChannelOpenError):
            return ObjectError(f"{head}: there is no SFTP ({said}); switch on the sftp subsystem of the server")
        return ObjectError(f"{head}: {said}; check that the server runs and that host and port are right")

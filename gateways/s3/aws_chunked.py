# SPDX-License-Identifier: Apache-2.0
"""aws-chunked bodies: framing, signatures of chunks and trailers, lengths. Bytes in, payload pieces out; no IO.

    HEXSIZE[;chunk-signature=SIG] CRLF data CRLF … 0[;chunk-signature=SIG] CRLF [name:value CRLF …] CRLF

Payload is passed on as views of the input and hashed in place; only header lines are copied. A piece may be handed out
before the signature of its chunk is known: nothing may be published before `finish` returned.
Source: spec s3 §5.4.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from core.object.api import Buffer
from gateways.s3.auth.model import Auth, PayloadMode, Seed
from gateways.s3.checksums import trailer_names
from gateways.s3.errors import S3Error

#: AWS refuses smaller chunks, except for the last one: signing tiny chunks costs the server more than their data.
MIN_CHUNK_BYTES = 8192
MAX_HEADER_BYTES = 1024
MAX_TRAILER_BYTES = 4096

_EMPTY_SHA256 = hashlib.sha256().hexdigest()
_HEX_DIGITS = b"0123456789abcdefABCDEF"
_SIGNATURE = b"chunk-signature="
_TRAILER_SIGNATURE = "x-amz-trailer-signature"


class _State(enum.Enum):
    HEADER = 0  # in a chunk header line
    DATA = 1
    DATA_END = 2  # in the CRLF after data
    TRAILER = 3  # after the zero chunk
    DONE = 4


def strip_aws_chunked(content_encoding: str) -> str:
    """Content-Encoding to store: `gzip, aws-chunked` → `gzip`; `aws-chunked` alone → ""."""
    if "aws-chunked" not in content_encoding.lower():
        return content_encoding
    kept = (part.strip() for part in content_encoding.split(","))
    return ", ".join([part for part in kept if part and part.lower() != "aws-chunked"])


def decoded_length(headers: Mapping[str, str]) -> int:
    """`x-amz-decoded-content-length`; 411 if absent."""
    value = headers.get("x-amz-decoded-content-length")
    if value is None:
        raise S3Error("MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.")
    if not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise S3Error(
            "InvalidArgument",
            "x-amz-decoded-content-length must be a number of bytes.",
            extra=(("ArgumentName", "x-amz-decoded-content-length"), ("ArgumentValue", value[:64])),
        )
    return int(value)


class AwsChunkedDecoder:
    """Feed it the body as it comes, in any pieces; then call `finish`.

    trailers: lower-case name → value, complete after `finish`. received: payload bytes so far.
    """

    __slots__ = (
        "_blank_seen", "_digest", "_expected", "_left", "_length", "_mode", "_names", "_pending", "_previous", "_seed",
        "_sent_trailer", "_sha", "_signed", "_small", "_state", "_trailer_bytes", "_trailer_signature", "received",
        "trailers",
    )  # fmt: skip

    def __init__(
        self, mode: PayloadMode, seed: Seed | None, decoded_length: int, trailer_names: Sequence[str] = ()
    ) -> None:
        if not mode.chunked:
            raise ValueError(f"{mode} is not aws-chunked")
        self._mode = mode
        self._signed = mode is not PayloadMode.STREAMING_UNSIGNED_TRAILER
        if self._signed and seed is None:
            raise ValueError(f"{mode} needs a seed")
        self._seed = seed
        self._previous = seed.signature if seed else ""
        self._length = decoded_length
        self._names = frozenset(trailer_names)
        self._state = _State.HEADER
        self._pending = b""  # an unfinished line, or half of a CRLF
        self._left = 0  # of this chunk
        self._small = False  # a chunk below the minimum came: it must be the last one
        self._sha = hashlib.sha256()
        self._expected = b""  # signature of this chunk as sent
        self._trailer_bytes = 0
        self._trailer_signature = ""
        self._sent_trailer = ""  # what its signature covers
        self._blank_seen = False
        self.received = 0
        self.trailers: dict[str, str] = {}

    @classmethod
    def for_request(cls, auth: Auth, headers: Mapping[str, str]) -> AwsChunkedDecoder:
        """The decoder that a request's headers ask for; their errors are raised here."""
        return cls(auth.payload, auth.seed, decoded_length(headers), trailer_names(headers))

    @property
    def done(self) -> bool:
        """The terminating line was seen."""
        return self._state is _State.DONE

    def feed(self, data: Buffer) -> list[memoryview]:
        """Payload in this piece of the body: views of `data`, never copies."""
        view = memoryview(data)
        if view.format != "B":
            view = view.cast("B")
        out: list[memoryview] = []
        position, end = 0, len(view)
        while position < end:
            state = self._state
            if state is _State.DATA:
                piece = view[position : position + self._left]
                position += len(piece)
                self._data(piece)
                out.append(piece)
            elif state is _State.HEADER:
                line, position = self._line(view, position, b"\r\n", MAX_HEADER_BYTES)
                if line is not None:
                    self._chunk_header(line)
            elif state is _State.DATA_END:
                got = self._pending + bytes(view[position : position + 2 - len(self._pending)])
                position += len(got) - len(self._pending)
                self._pending = got
                if not b"\r\n".startswith(got):
                    raise _broken("a chunk is longer than its header says")
                if len(got) == 2:
                    self._pending = b""
                    self._state = _State.HEADER
            elif state is _State.TRAILER:
                before = position
                line, position = self._line(view, position, b"\n", MAX_TRAILER_BYTES)
                self._trailer_bytes += position - before
                if self._trailer_bytes > MAX_TRAILER_BYTES:
                    raise S3Error("MalformedTrailerError", f"The trailer is longer than {MAX_TRAILER_BYTES} bytes.")
                if line is not None:
                    self._trailer_line(line.removesuffix(b"\r"))
            else:
                raise _broken("bytes follow its end")
        return out

    def finish(self) -> None:
        """The body has ended. Raises unless everything announced has come and is proven."""
        if self._state is _State.TRAILER and not self._pending:
            self._end()  # some senders leave out the last line feed
        if self._state is not _State.DONE:
            raise S3Error("IncompleteBody", "The request body terminated unexpectedly.")

    def _line(self, view: memoryview, position: int, mark: bytes, limit: int) -> tuple[bytes | None, int]:
        """The next line without its end, or None if the input is used up first; and the new position."""
        pending = self._pending
        for size in (128, limit + len(mark)):  # nearly all lines are short
            text = pending + bytes(view[position : position + max(size - len(pending), 0)])
            found = text.find(mark)
            if found >= 0:
                self._pending = b""
                return text[:found], position + found + len(mark) - len(pending)
        if len(text) >= limit + len(mark):
            if self._state is _State.TRAILER:
                raise S3Error("MalformedTrailerError", f"The trailer is longer than {limit} bytes.")
            raise _broken(f"a chunk header is longer than {limit} bytes")
        self._pending = text
        return None, len(view)

    def _chunk_header(self, line: bytes) -> None:
        size_text, semicolon, extension = line.partition(b";")
        # int() alone would take signs, underscores, spaces and 0x.
        if not size_text or len(size_text) > 16 or size_text.translate(None, _HEX_DIGITS):
            raise _broken("a chunk header does not begin with a hexadecimal size")
        size = int(size_text, 16)
        if self._signed:
            if not extension.startswith(_SIGNATURE) or len(extension) != len(_SIGNATURE) + 64:
                raise S3Error("SignatureDoesNotMatch", "A chunk of the body has no chunk-signature.")
            self._expected = extension[len(_SIGNATURE) :]
        elif semicolon:
            raise _broken("a chunk of an unsigned body has an extension")
        if size == 0:
            if self.received != self._length:
                raise _wrong_length()
            if self._signed:
                self._check_chunk(_EMPTY_SHA256)
            self._state = _State.TRAILER
            return
        if self._small:
            raise S3Error("InvalidChunkSizeError")
        if size > self._length - self.received:
            raise _wrong_length()
        self._small = size < MIN_CHUNK_BYTES
        self._left = size
        self._state = _State.DATA
        if self._signed:
            self._sha = hashlib.sha256()

    def _data(self, piece: memoryview) -> None:
        self._left -= len(piece)
        self.received += len(piece)
        if self._signed:
            self._sha.update(piece)
        if not self._left:
            self._state = _State.DATA_END
            if self._signed:
                self._check_chunk(self._sha.hexdigest())

    def _sign(self, kind: str, *lines: str) -> str:
        seed = self._seed
        assert seed is not None
        text = "\n".join((kind, seed.timestamp, seed.scope, self._previous, *lines))
        return hmac.digest(seed.signing_key, text.encode("latin-1"), "sha256").hex()

    def _check_chunk(self, sha256: str) -> None:
        expected = self._sign("AWS4-HMAC-SHA256-PAYLOAD", _EMPTY_SHA256, sha256)
        if not hmac.compare_digest(expected.encode(), self._expected):
            raise S3Error("SignatureDoesNotMatch", "The signature of a chunk of the body does not match.")
        self._previous = expected

    def _trailer_line(self, line: bytes) -> None:
        if not line:
            # minio-go puts an empty line between the trailer and its signature.
            if (
                self._mode is PayloadMode.STREAMING_SIGNED_TRAILER
                and not self._trailer_signature
                and self.trailers
                and not self._blank_seen
            ):
                self._blank_seen = True
                return
            self._end()
            return
        name, colon, value = line.decode("latin-1").partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or not name:
            raise S3Error("MalformedTrailerError")
        if self._mode is PayloadMode.STREAMING_SIGNED_TRAILER and name == _TRAILER_SIGNATURE:
            if self._trailer_signature:
                raise S3Error("MalformedTrailerError", "The trailer has two signatures.")
            self._trailer_signature = value
            return
        if self._trailer_signature or self._mode is PayloadMode.STREAMING_SIGNED:
            raise S3Error("MalformedTrailerError", "The trailer has a line where none may be.")
        if name not in self._names or name in self.trailers:
            raise S3Error("MalformedTrailerError", "The trailer has a line that x-amz-trailer did not announce once.")
        self.trailers[name] = value
        self._sent_trailer += f"{name}:{value}\n"

    def _end(self) -> None:
        if len(self.trailers) != len(self._names):
            raise S3Error("MalformedTrailerError", "A trailer that x-amz-trailer announces did not come.")
        if self._mode is PayloadMode.STREAMING_SIGNED_TRAILER:
            if not self._trailer_signature:
                raise S3Error("MalformedTrailerError", "The trailer has no x-amz-trailer-signature.")
            digest = hashlib.sha256(self._sent_trailer.encode("latin-1")).hexdigest()
            expected = self._sign("AWS4-HMAC-SHA256-TRAILER", digest)
            if not hmac.compare_digest(expected.encode(), self._trailer_signature.encode("latin-1")):
                raise S3Error("SignatureDoesNotMatch", "The signature of the trailer does not match.")
        self._state = _State.DONE


def _broken(what: str) -> S3Error:
    return S3Error("IncompleteBody", f"The aws-chunked request body is not well-formed: {what}.")


def _wrong_length() -> S3Error:
    return S3Error("IncompleteBody", "The chunks do not add up to the length given in x-amz-decoded-content-length.")

# SPDX-License-Identifier: Apache-2.0
"""Options of the S3 gateway: one frozen record, defaults as a careful administrator wants them.

Names follow JuiceFS where it has the option (spec s3 §21). Nothing here reads the environment or a command line;
`sluice gateway` and `sluice serve` fill it. Limits carry their source.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

MIB: Final = 1 << 20
GIB: Final = 1 << 30

#: One PUT or one part (spec s3 §17).
MAX_PUT_BYTES: Final = 5 * GIB
MIN_PART_BYTES: Final = 5 * MIB
MAX_PARTS: Final = 10_000
MAX_KEYS: Final = 1000
MAX_DELETE: Final = 1000
#: Request documents (spec s3 §8).
MAX_XML_BYTES: Final = MIB
MAX_BIG_XML_BYTES: Final = 2 * MIB
MAX_USER_METADATA_BYTES: Final = 2048


class S3Config(msgspec.Struct, frozen=True, kw_only=True):
    """How one gateway behaves. Everything that lives on the volume is not here."""

    # Names (§3.1, §2.1).
    volume_name: str = "sluice"
    bucket_name: str = ""  # single mode: the bucket; default is the volume's name
    multi_buckets: bool = False
    relaxed_bucket_names: bool = False
    domains: tuple[str, ...] = ()
    region: str = ""  # "" accepts every region and reports us-east-1
    mountpoint: str = ""  # absolute prefix that means the volume's root in link targets

    # New files (§4.4).
    umask: int = 0o022
    apply_mtime: bool = False

    # What is kept beside the data (§4.1, §4.3); off saves metadata records.
    keep_etag: bool = True
    object_tag: bool = True
    object_meta: bool = True
    etag: Literal["md5", "crc64"] = "md5"
    default_checksum: bool = True  # CRC64NVME when the client sent none (§6)

    # Directories (§3.5, §3.6, §10.3).
    head_dir: bool = False
    hide_dir_object: bool = False
    empty_dirs: Literal["auto", "keep", "prune"] = "auto"
    list_empty_dirs: bool = True

    # Rules.
    strict: bool = False  # integrity headers are required where AWS requires them
    sigv2: bool = True
    anonymous: Literal["", "download", "upload", "public"] = ""
    read_only: bool = False
    encrypted_volume: bool = False  # then SSE "AES256" is accepted: it is true
    bucket_exists_conflict: bool = False  # CreateBucket of an own bucket: 409 instead of 200
    debug_errors: bool = False  # SignatureDoesNotMatch with the canonical request
    min_part_bytes: int = MIN_PART_BYTES
    max_put_bytes: int = MAX_PUT_BYTES
    max_copy_bytes: int = 0  # 0: no limit, a copy moves no data

    # Who owns things in answers (§8). "" takes SHA-256 of the access key, and the key itself as display name.
    owner_id: str = ""
    owner_name: str = ""

    # Housekeeping (§4.4).
    #: One body may take so long. Blocks that belong to nothing yet are safe from gc for an hour, ours and JuiceFS's.
    max_body_s: float = 45 * 60

    @property
    def bucket(self) -> str:
        """The one bucket of single mode."""
        return self.bucket_name or self.volume_name

    @property
    def location(self) -> str:
        return self.region or "us-east-1"

    @property
    def file_mode(self) -> int:
        return 0o666 & ~self.umask

    @property
    def dir_mode(self) -> int:
        return 0o777 & ~self.umask

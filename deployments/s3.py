"""Bundles in an S3-compatible store: django-storages' backend with our limits and errors.

Owns timeouts, retries and memory of transfers. Every failure to reach the store is an OSError, as
of a folder; a missing object a FileNotFoundError. Credentials come from where boto3 looks for them:
https://boto3.amazonaws.com/v1/documentation/api/latest/guide/credentials.html
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from storages.backends.s3 import S3File, S3Storage

CONNECT_SECONDS_MAX = 5
READ_SECONDS_MAX = 60
ATTEMPTS_MAX = 3
PART_BYTES = 8 * 1024 * 1024
# A bundle that is read lies in a file, not in memory.
MEMORY_BYTES_MAX = 1024 * 1024


@contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise OSError(f"The S3 store cannot be used: {error}") from error


class S3Bundles(S3Storage):
    """Objects below one prefix of one bucket, written and read in bounded memory."""

    def get_default_settings(self) -> dict[str, Any]:
        """django-storages' settings, with ours in place of what Django's settings may hold."""
        return {
            **super().get_default_settings(),
            "file_overwrite": True,  # equal names are equal content
            "default_acl": None,
            "max_memory_size": MEMORY_BYTES_MAX,
            # One part at a time: at most PART_BYTES in memory.
            "transfer_config": TransferConfig(use_threads=False, multipart_chunksize=PART_BYTES),
            "client_config": Config(
                connect_timeout=CONNECT_SECONDS_MAX,
                read_timeout=READ_SECONDS_MAX,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS_MAX},
                # Other makers' stores seldom have a host name per bucket.
                s3={"addressing_style": "auto"},
            ),
        }

    def _open(self, name: str, mode: str = "rb") -> S3File:
        """The object, downloaded. Raises OSError."""
        with _as_os_errors():
            opened = super()._open(name, mode)
            opened.open()
        return opened

    def _save(self, name: str, content: Any) -> str:
        """Raises OSError."""
        with _as_os_errors():
            return str(super()._save(name, content))

    def delete(self, name: str) -> None:
        """Raises OSError."""
        with _as_os_errors():
            super().delete(name)

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        """Raises OSError."""
        with _as_os_errors():
            folders, files = super().listdir(path)
        return folders, files

    def get_modified_time(self, name: str) -> Any:
        """Raises OSError."""
        with _as_os_errors():
            return super().get_modified_time(name)

"""Where uploaded bundles are kept, by `STORAGE_URL`: a local folder or an S3-compatible store.

Owns the meaning of that URL, as an entry of Django's STORAGES; must not know what is kept there.
"""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from config.env import UnableToReadEnvironment

PARAMETERS = {"endpoint": "endpoint_url", "region": "region_name"}
EXAMPLE = "s3://bucket/prefix?endpoint=https://s3.example.com&region=eu-central-1"


def backend(url: str, folder: Path) -> dict[str, Any]:
    """The STORAGES entry for `STORAGE_URL`; without one, files below `folder`.

    Raises UnableToReadEnvironment, which never repeats the URL: somebody may have put a key in it.
    """
    if not url:
        return local(folder)
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.hostname or parts.fragment:
        raise UnableToReadEnvironment(f"STORAGE_URL must look like {EXAMPLE}")
    if parts.username or parts.password:
        raise UnableToReadEnvironment(
            "STORAGE_URL must hold no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    asked = parse_qs(parts.query, keep_blank_values=True)
    unknown = asked.keys() - PARAMETERS
    if unknown:
        raise UnableToReadEnvironment(
            f"STORAGE_URL: {', '.join(sorted(unknown))} is not known; use endpoint and region."
        )
    options = {PARAMETERS[name]: values[-1] for name, values in asked.items()}
    options |= {"bucket_name": parts.netloc, "location": parts.path.strip("/")}
    return {"BACKEND": "deployments.s3.S3Bundles", "OPTIONS": options}


def local(folder: Path) -> dict[str, Any]:
    """The STORAGES entry for files below `folder`, for this user alone: bundles hold variables."""
    return {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": folder,
            "allow_overwrite": True,
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    }

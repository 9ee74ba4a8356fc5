"""`STORAGE_URL`: which store it names, and what is wrong with it."""

from pathlib import Path

import pytest

from config import bundle_store
from config.env import UnableToReadEnvironment

FOLDER = Path("/data/bundles")


def test_without_a_url_bundles_lie_in_a_folder_for_this_user_alone() -> None:
    entry = bundle_store.backend("", FOLDER)
    assert entry["BACKEND"].endswith("FileSystemStorage")
    assert entry["OPTIONS"]["location"] == FOLDER
    assert entry["OPTIONS"]["file_permissions_mode"] == 0o600


def test_a_bucket_with_everything_said_about_it() -> None:
    url = "s3://our.bucket/a/b/?endpoint=http://127.0.0.1:9000&region=eu-central-1"
    assert bundle_store.backend(url, FOLDER)["OPTIONS"] == {
        "bucket_name": "our.bucket",
        "location": "a/b",
        "endpoint_url": "http://127.0.0.1:9000",
        "region_name": "eu-central-1",
    }


def test_a_bucket_alone_is_enough() -> None:
    options = bundle_store.backend("s3://bucket", FOLDER)["OPTIONS"]
    assert options == {"bucket_name": "bucket", "location": ""}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("/srv/bundles", "must look like s3://"),
        ("gs://bucket", "must look like s3://"),
        ("s3:///prefix", "must look like s3://"),
        ("s3://bucket?acl=public", "acl is not known"),
        ("s3://AKIA:hidden@bucket", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url: str, problem: str) -> None:
    with pytest.raises(UnableToReadEnvironment, match=problem) as refused:
        bundle_store.backend(url, FOLDER)
    assert "hidden" not in str(refused.value)

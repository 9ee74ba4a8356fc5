"""What would be wrong in production is said before it serves."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from config import checks

ROOT = Path(django_settings.BASE_DIR)


def ids(messages: list[Any]) -> list[str]:
    return [message.id for message in messages]


def test_secrets_that_exist_and_differ_are_fine() -> None:
    assert checks.secrets_are_set() == []


@pytest.mark.parametrize("name", ["SECRET_KEY", "KEY_PEPPER", "VAULT_KEY"])
def test_a_missing_secret_is_named(settings: Any, name: str) -> None:
    setattr(settings, name, "")
    (error,) = checks.secrets_are_set()
    assert error.id == "config.E001"
    assert error.msg == f"{name} must be set."


def test_equal_secrets_are_refused(settings: Any) -> None:
    settings.KEY_PEPPER = settings.VAULT_KEY
    assert ids(checks.secrets_are_set()) == ["config.E002"]


@pytest.mark.parametrize(
    ("console", "sites", "is_shared"),
    [
        ("https://console.example.com", "console.example.com", True),
        ("https://console.example.com", "example.com", True),
        ("https://example.com", "apps.example.com", True),
        ("https://console.example.com", "apps.example.com", True),
        ("https://console.example.com", "example-apps.com", False),
        ("https://example.com", "example-apps.com", False),
        ("https://console.example.com", "badexample.com", False),
        ("http://localhost:8000", "localhost", True),
    ],
)
def test_sites_on_the_consoles_domain_are_warned_of(
    settings: Any, console: str, sites: str, is_shared: bool
) -> None:
    settings.PUBLIC_URL, settings.APPS_DOMAIN = console, sites
    found = ids(checks.deployed_sites_have_their_own_domain())
    assert found == (["config.W001"] if is_shared else [])


def test_functions_without_isolation_are_warned_of(settings: Any) -> None:
    settings.FUNCTION_DRIVER = "local-plain"
    assert ids(checks.functions_are_isolated()) == ["config.W002"]
    settings.FUNCTION_DRIVER = "other"
    assert checks.functions_are_isolated() == []


def check(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`manage.py check --deploy` with nothing but this environment."""
    known = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "EMBEDDED": "false"}
    return subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy"],
        cwd=ROOT,
        env={**known, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("driver", "embedded", "programs", "expected"),
    [
        ("auto", False, "", ["config.E004"]),
        ("local-bwrap", False, "", ["config.E004"]),
        ("local-bwrap", True, "", ["config.E004"]),
        ("auto", True, "", []),
        ("local-plain", False, "", []),
        ("auto", False, "bwrap", []),
    ],
)
def test_without_bubblewrap_production_is_told_to_install_it(
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    driver: str,
    embedded: bool,
    programs: str,
    expected: list[str],
) -> None:
    settings.FUNCTION_DRIVER, settings.EMBEDDED = driver, embedded
    for name in programs.split():
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = checks.functions_can_be_isolated()
    assert ids(found) == expected
    assert all("apt install bubblewrap" in str(each.hint) for each in found)


def test_payments_that_nobody_can_confirm_are_warned_of(settings: Any) -> None:
    settings.STRIPE_API_KEY, settings.STRIPE_WEBHOOK_SECRET = "sk_test_1", " "
    assert ids(checks.payments_can_be_confirmed()) == ["config.W003"]
    settings.STRIPE_WEBHOOK_SECRET = "whsec_1"
    assert checks.payments_can_be_confirmed() == []
    settings.STRIPE_API_KEY = settings.STRIPE_WEBHOOK_SECRET = ""
    assert checks.payments_can_be_confirmed() == []


def test_check_deploy_says_what_production_lacks(tmp_path: Path) -> None:
    done = check(
        tmp_path,
        PUBLIC_URL="https://console.example.com",
        APPS_DOMAIN="apps.example.com",
        FUNCTION_DRIVER="local-plain",
        SECRET_KEY="one" * 20,
        KEY_PEPPER="two" * 20,
    )
    assert done.returncode != 0
    assert "(config.E001) VAULT_KEY must be set." in done.stderr
    assert "docs/configuration.md" in done.stderr
    assert "config.W001" in done.stderr
    assert "config.W002" in done.stderr
    assert not list(tmp_path.rglob("*secret*"))  # production never makes secrets up


def test_functions_on_aws_lambda_need_a_region_and_a_role(settings: Any) -> None:
    settings.AWS_LAMBDA = {"region": "eu-central-1", "role": ""}
    assert checks.aws_lambda_is_set_up() == []
    settings.FUNCTION_DRIVER = "aws-lambda"
    (error,) = checks.aws_lambda_is_set_up()
    assert error.msg == "FUNCTION_DRIVER=aws-lambda needs AWS_LAMBDA_ROLE."
    settings.AWS_LAMBDA["role"] = "arn:aws:iam::000000000000:role/functions"
    assert checks.aws_lambda_is_set_up() == []

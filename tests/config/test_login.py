"""Log-in, log-out, password reset, and the pages for what goes wrong."""

import re

import pytest
from django.core import mail
from django.test import Client

from orgs.models import Organization, User
from tests import factories

LOGIN = "/accounts/login/"


def test_logging_in_leads_to_the_organization(
    organization: Organization, owner: User, client: Client
) -> None:
    data = {"login": owner.email, "password": factories.PASSWORD}
    response = client.post(LOGIN, data, follow=True)
    assert response.redirect_chain[-1][0] == f"/console/{organization.slug}/"
    assert owner.email in response.content.decode()


def test_logging_in_leads_back_to_the_page_that_was_asked_for(
    organization: Organization, owner: User, client: Client
) -> None:
    page = f"/console/{organization.slug}/tokens/"
    login = client.get(page)["Location"]
    assert client.get(login).status_code == 200
    data = {"login": owner.email, "password": factories.PASSWORD, "next": page}
    assert client.post(login, data)["Location"] == page


@pytest.mark.parametrize("email", ["nobody@example.com", None])
def test_a_wrong_log_in_says_so_without_telling_who_exists(
    email: str | None, owner: User, client: Client
) -> None:
    response = client.post(LOGIN, {"login": email or owner.email, "password": "wrong"})
    text = response.content.decode()
    assert response.status_code == 200
    assert "The email address and/or password you specified are not correct." in text
    assert 'role="alert"' in text


def test_missing_fields_are_named(db: None, client: Client) -> None:
    text = client.post(LOGIN, {"login": "no address", "password": ""}).content.decode()
    assert "Enter a valid email address." in text
    assert 'aria-invalid="true"' in text


def test_logging_out_needs_a_post_and_ends_the_session(
    organization: Organization, owner_client: Client
) -> None:
    page = f"/console/{organization.slug}/"
    assert owner_client.get("/accounts/logout/").status_code == 200
    assert owner_client.get(page).status_code == 200
    assert owner_client.post("/accounts/logout/")["Location"] == LOGIN
    assert owner_client.get(page).status_code == 302


def test_sign_up_is_closed(db: None, client: Client) -> None:
    data = {"email": "new@example.com", "password1": "a-long-enough-password"}
    assert "Sign-up is closed" in client.get("/accounts/signup/").content.decode()
    client.post("/accounts/signup/", data)
    assert not User.objects.exists()


def test_a_forgotten_password_can_be_replaced(owner: User, client: Client) -> None:
    response = client.post("/accounts/password/reset/", {"email": owner.email}, follow=True)
    assert "Check your e-mail" in response.content.decode()
    (message,) = mail.outbox
    found = re.search(r"(/accounts/password/reset/key/\S+)", str(message.body))
    assert found is not None
    form = client.get(found[1], follow=True)
    assert "Choose a new password" in form.content.decode()
    new = "another good pass phrase"
    done = client.post(
        form.redirect_chain[-1][0], {"password1": new, "password2": new}, follow=True
    )
    assert "Password changed" in done.content.decode()
    assert client.login(email=owner.email, password=new)


def test_a_used_reset_link_says_what_to_do(db: None, client: Client) -> None:
    text = client.get("/accounts/password/reset/key/1-abc-def/", follow=True).content.decode()
    assert "This link no longer works" in text


@pytest.mark.parametrize("path", ["/nowhere", "/console/nobody/"])
def test_a_missing_page_is_friendly(path: str, owner_client: Client) -> None:
    response = owner_client.get(path)
    assert response.status_code == 404
    assert "Page not found" in response.content.decode()


def test_a_failure_on_our_side_shows_a_page_without_details(
    organization: Organization, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a detail")

    monkeypatch.setattr("billing.usage.balance", broken)
    response = client.get(f"/console/{organization.slug}/")
    assert response.status_code == 500
    text = response.content.decode()
    assert "Something broke on our side" in text
    assert "a detail" not in text


def test_a_form_with_a_stale_token_is_explained(db: None) -> None:
    response = Client(enforce_csrf_checks=True).post(LOGIN, {"login": "a@example.com"})
    assert response.status_code == 403
    assert "This form is too old" in response.content.decode()

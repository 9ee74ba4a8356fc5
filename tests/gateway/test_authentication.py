"""Who may call the AI API, what the others are told, and what browsers are told."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from deployments.models import Deployment
from gateway import keys, refusals, snapshot
from gateway.app import GatewayApp
from gateway.models import GatewayKey
from orgs.models import Organization
from tests import factories
from tests.gateway.conftest import Answer, ApiClient, Tenant, until

MISSING = ("", "Basic YTpi", "Bearer", "Bearer   ", "Token abc")


async def models(api: ApiClient, key: str | None = None, **headers: str) -> Answer:
    return await api.call("/models", method="GET", key=key, headers=headers)


@pytest.mark.parametrize("authorization", MISSING)
async def test_without_a_key_the_answer_tells_where_to_get_one(
    api: ApiClient, authorization: str
) -> None:
    answer = await models(api, key="", authorization=authorization)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json["error"] == {
        "message": refusals.missing_key().message,
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


async def test_both_headers_work_and_bearer_wins(api: ApiClient) -> None:
    wrong = api.key[:-1] + ("a" if api.key[-1] != "a" else "b")
    assert (await models(api)).status == 200
    assert (await models(api, key="", **{"x-api-key": api.key})).status == 200
    assert (await models(api, key="", **{"x-api-key": f" {api.key} "})).status == 200
    assert (await models(api, key=wrong, **{"x-api-key": api.key})).status == 401
    assert (await models(api, **{"x-api-key": wrong})).status == 200
    basic = {"authorization": "Basic YTpi", "x-api-key": api.key}
    assert (await models(api, key="", **basic)).status == 200


async def test_a_key_in_the_address_is_ignored(api: ApiClient) -> None:
    for query in (f"key={api.key}", f"api_key={api.key}", f"authorization=Bearer%20{api.key}"):
        answer = await api.call("/models", method="GET", key="", query=query.encode())
        assert answer.status == 401
        assert answer.json["error"]["code"] is None


def well_formed(deploy_id: str) -> str:
    """A key with valid check characters that nobody issued."""
    return keys._new_text(deploy_id)


async def test_every_dead_key_gets_the_same_answer_but_for_its_mask(
    app: GatewayApp, api: ApiClient, tenant: Tenant
) -> None:
    dead = await sync_to_async(_dead_keys)(tenant)
    dead["unknown secret"] = well_formed(tenant.deployment.deploy_id)
    dead["unknown deployment"] = well_formed("nobody-0123456789")
    dead["malformed"] = "aig_nonsense-that-is-long-enough"
    bodies = set()
    for name, key in dead.items():
        answer = await models(api, key=key)
        assert answer.status == 401, name
        assert answer.json["error"]["code"] == "invalid_api_key"
        mask = refusals.mask_key(key)
        assert mask in answer.body.decode()
        assert key not in answer.body.decode()
        headers = {k: v for k, v in answer.headers.items() if k != "x-request-id"}
        length = headers.pop("content-length")
        assert int(length) == len(answer.body)
        bodies.add((answer.body.decode().replace(mask, "MASK"), str(sorted(headers.items()))))
    assert len(bodies) == 1
    assert (await models(api)).status == 200


def _dead_keys(tenant: Tenant) -> dict[str, str]:
    from django.db import connection

    from tests.gateway.conftest import make_tenant

    now = timezone.now()
    found = {}
    revoked = make_tenant(dollars=0)
    keys.revoke_all(revoked.deployment, at=now)
    found["revoked"] = revoked.key
    expired = make_tenant(dollars=0)
    GatewayKey.objects.filter(deployment=expired.deployment).update(expires_at=now)
    found["expired"] = expired.key
    deleted = make_tenant(dollars=0)
    Deployment.objects.filter(pk=deleted.deployment.pk).update(deleted_at=now)
    found["deleted deployment"] = deleted.key
    connection.close()
    return found


async def test_a_suspended_organization_is_told_so_and_lifting_it_lets_it_in_again(
    api: ApiClient, tenant: Tenant
) -> None:
    assert (await models(api)).status == 200
    await sync_to_async(factories.suspend)(tenant.organization, at=timezone.now())

    async def is_refused() -> bool:
        return (await models(api)).status == 403

    await until(is_refused)
    answer = await models(api)
    assert answer.json["error"]["code"] == "organization_suspended"
    assert "Contact whoever runs this platform." in answer.json["error"]["message"]
    assert factories.SUSPENSION_REASON not in answer.body.decode()
    # Whoever has no working key of it learns nothing.
    wrong = tenant.key[:-1] + ("a" if tenant.key[-1] != "a" else "b")
    assert (await models(api, key=wrong)).status == 401
    await Organization.objects.aupdate(suspended_at=None, suspension_reason="")

    async def is_let_in() -> bool:
        return (await models(api)).status == 200

    await until(is_let_in)


@pytest.mark.parametrize(
    "key", ["x", "aig_", "Ünïcode", "a" * 10_000, "\x7f\x01", "<script>alert(1)</script>", "*" * 30]
)
async def test_a_strange_key_is_masked_and_refused(api: ApiClient, key: str) -> None:
    answer = await models(api, key="", **{"x-api-key": key})
    assert answer.status == 401
    assert len(answer.body) < 600
    assert len(key) < 20 or key not in answer.body.decode()


async def test_an_old_key_works_through_its_grace_and_not_after(
    api: ApiClient, tenant: Tenant
) -> None:
    new = await sync_to_async(_rotate)(tenant, grace_seconds=3600)
    assert (await models(api, key=new)).status == 200
    assert (await models(api)).status == 200
    await GatewayKey.objects.filter(expires_at__isnull=False).aupdate(expires_at=timezone.now())

    async def is_refused() -> bool:
        return (await models(api)).status == 401

    await until(is_refused)
    assert (await models(api, key=new)).status == 200


def _rotate(tenant: Tenant, *, grace_seconds: int) -> str:
    now = timezone.now()
    return keys.rotate(
        tenant.deployment, expires_at=now + timedelta(seconds=grace_seconds), at=now
    )[1]


async def test_a_new_key_works_at_once_where_the_old_one_was_in_use(
    app: GatewayApp, api: ApiClient, tenant: Tenant
) -> None:
    assert (await models(api)).status == 200
    await asyncio.sleep(snapshot.ASK_AGAIN_AFTER_SECONDS)
    key = await sync_to_async(_rotate)(tenant, grace_seconds=60)
    assert (await models(api, key=key)).status == 200


async def test_guesses_do_not_reach_the_database_one_by_one(
    app: GatewayApp, api: ApiClient, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(deploy_id: str) -> snapshot.Caller | None:
        asked.append(deploy_id)
        return None

    monkeypatch.setattr(snapshot, "load_caller", counted)
    monkeypatch.setattr(snapshot, "ASK_AGAIN_AFTER_SECONDS", 60)
    for _ in range(20):
        assert (await models(api, key=well_formed("nobody-0123456789"))).status == 401
    assert len(asked) < 10


async def test_a_grace_that_ends_between_two_looks_at_the_database_counts(
    app: GatewayApp, api: ApiClient, tenant: Tenant
) -> None:
    """The end of a grace is known beforehand: it needs no renewal to take effect."""
    ends_at = timezone.now() + timedelta(seconds=0.2)
    await GatewayKey.objects.aupdate(expires_at=ends_at)
    assert (await models(api)).status == 200
    await asyncio.sleep(max(0.0, (ends_at - timezone.now()).total_seconds()))
    assert (await models(api)).status == 401


# --- browsers ---------------------------------------------------------------------------------


async def test_a_key_sent_by_a_browser_is_refused_and_noted(api: ApiClient, tenant: Tenant) -> None:
    answer = await models(api, origin="https://app.example")
    assert answer.status == 403
    assert answer.json["error"]["code"] == "key_used_from_browser"
    await until(GatewayKey.objects.filter(exposed_at__isnull=False).aexists)
    key = await GatewayKey.objects.aget()
    assert key.last_used_at is None
    # It still works from servers: refusing would let any page switch an app off.
    assert (await models(api)).status == 200


@pytest.mark.parametrize("origin", ["null", "", "http://localhost:3000"])
async def test_any_origin_tells_a_browser(api: ApiClient, origin: str) -> None:
    assert (await models(api, origin=origin)).status == 403


async def test_nodes_own_fetch_is_no_browser(api: ApiClient) -> None:
    assert (await models(api, **{"sec-fetch-mode": "cors"})).status == 200


async def test_a_wrong_key_from_a_browser_is_told_nothing_more(api: ApiClient) -> None:
    wrong = well_formed("nobody-0123456789")
    assert (await models(api, key=wrong, origin="https://app.example")).status == 401


async def test_the_use_of_a_key_is_noted(api: ApiClient, tenant: Tenant) -> None:
    assert (await models(api)).status == 200
    await until(GatewayKey.objects.filter(last_used_at__isnull=False).aexists)
    first = (await GatewayKey.objects.aget()).last_used_at
    assert (await models(api)).status == 200
    await asyncio.sleep(0.05)
    assert (await GatewayKey.objects.aget()).last_used_at == first


async def test_a_malformed_key_touches_no_storage(
    app: GatewayApp, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    services: Any = app._services

    async def fail(_: str) -> None:
        raise AssertionError("the snapshot was asked")

    monkeypatch.setattr(services.snapshot, "caller", fail)
    changed = api.key[:-1] + ("a" if api.key[-1] != "a" else "b")
    assert (await models(api, key=changed)).status == 401

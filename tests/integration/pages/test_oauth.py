"""With `--auth` the pages are for those whom Flower's OAuth has signed on, and actions bear their address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import tornado.options
from flower import urls

from support.broker import Workers
from support.flower_site import Site, flower_site
from support.http_server import HttpServer, Received, Reply
from support.workflows import line
from workflow_engine import ExecutionStatus, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine

ADA = "ada@shop.example"
AUTH = ".*@shop.example"
STRANGER = "eve@elsewhere.example"
CODE = "one-time-code"


def asks(context: object) -> object:
    return waiting(events=["paid"], correlation_id="order-7")


class Provider:
    """An OpenID provider as Flower's handler for Okta expects it; `email` is who signs on next."""

    def __init__(self) -> None:
        self.email = ADA
        self.server = HttpServer(self._answer)

    def _answer(self, received: Received) -> Reply:
        address = urlsplit(received.path)
        if address.path == "/v1/authorize":
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            back = urlencode({"code": CODE, "state": asked["state"]})
            return Reply(302, headers={"Location": f"{asked['redirect_uri']}?{back}"})
        if address.path == "/v1/token":
            form = parse_qs(received.body.decode())
            is_right = form["code"] == [CODE] and form["client_secret"] == ["of Flower"]
            return Reply(body={"access_token": f"token of {self.email}"}) if is_right else Reply(400)
        if received.headers.get("authorization") != f"Bearer token of {self.email}":
            return Reply(401)
        return Reply(body={"email": self.email, "email_verified": True})


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    found = Provider()
    options = tornado.options.options.mockable()
    monkeypatch.setattr(options, "auth_provider", "flower.views.auth.OktaLoginHandler")
    with found.server:
        monkeypatch.setenv("FLOWER_OAUTH2_OKTA_BASE_URL", found.server.url(""))
        yield found


@pytest.fixture
def site(engine: Engine, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    oauth = {"key": "flower", "secret": "of Flower", "redirect_uri": ""}
    monkeypatch.setitem(urls.settings, "oauth", oauth)  # type: ignore[arg-type]
    with flower_site(engine, basic_auth=None, auth=AUTH) as running:
        oauth["redirect_uri"] = f"{running.address}/login"
        yield running


@contextmanager
def browser(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.address, follow_redirects=True, timeout=60) as client:
        yield client


@pytest.fixture
def waits(client: WorkflowClient, workers: Workers) -> str:
    client.deploy(line(asks))
    started = client.start("line").id
    workers.drain()
    return started


def cancel(client: httpx.Client, execution_id: str) -> httpx.Response:
    path = f"/executions/{execution_id}/actions/cancel"
    client.get(path)
    token = client.cookies.get("_xsrf", "none")
    return client.post(path, data={"reason": "no longer wanted", "_xsrf": token})


def test_a_page_leads_to_the_provider_and_the_history_names_who_acted_after_it(
    site: Site, client: WorkflowClient, waits: str
) -> None:
    with browser(site) as ada:
        ada.get("/executions")
        page = ada.get(f"/executions/{waits}")
        answer = cancel(ada, waits)

    assert page.status_code == 200
    assert waits in page.text
    assert "Actions are off" not in page.text
    assert answer.status_code == 200
    assert client.get(waits).status is ExecutionStatus.CANCELLED
    assert (client.control.audit(waits)[-1].actor, client.control.audit(waits)[-1].reason) == (
        ADA,
        "no longer wanted",
    )


@pytest.mark.parametrize("path", ["/executions", "/executions/{id}", "/workflows", "/statistics", "/queues"])
def test_those_whom_the_provider_knows_but_auth_does_not_see_nothing(
    site: Site, provider: Provider, waits: str, path: str
) -> None:
    provider.email = STRANGER
    with browser(site) as eve:
        answer = eve.get(path.format(id=waits))

    assert answer.status_code == 403
    assert "line" not in answer.text.partition("<main")[2].replace("online", "")
    assert waits not in answer.text


def test_an_action_without_sign_on_or_with_a_forged_cookie_changes_nothing(
    site: Site, client: WorkflowClient, waits: str
) -> None:
    path = f"/executions/{waits}/actions/cancel"
    for cookies in ({}, {"user": ADA}, {"user": "2|1:0|10:1|4:user|8:YWRh|forged"}):
        with httpx.Client(base_url=site.address, cookies=cookies) as stranger:
            token = stranger.get("/login").cookies.get("_xsrf", "none")
            answer = stranger.post(path, data={"reason": "an attack", "_xsrf": token})
        assert answer.status_code in (302, 403), cookies

    assert client.get(waits).status is ExecutionStatus.WAITING


def test_a_poll_after_the_sign_on_has_ended_is_not_answered_with_the_page(site: Site, waits: str) -> None:
    with browser(site) as ada:
        ada.get("/executions")
        page = ada.get(f"/executions/{waits}")
        ada.cookies.delete("user")
        ada.follow_redirects = False
        answer = ada.get(f"/executions/{waits}", headers={"If-None-Match": page.headers["Etag"]})

    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/login?next=")

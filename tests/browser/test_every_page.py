"""Every page is quiet, asks no other host, can be used by all, and shows hostile text as text."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from browser.conftest import Shop
from support.bad_day import hostile_texts
from support.chromium import Browser

PAGES = {
    "the list": "/executions",
    "the list, filtered": "/executions?status=FAILED&status=WAITING&text=paid&since=2026-01-01T00:00",
    "an execution that failed": "/executions/{failed}",
    "one that completed": "/executions/{completed 0}?node=charge",
    "one that waits": "/executions/{waiting}",
    "one that is paused": "/executions/{paused}",
    "one without a worker": "/executions/{no worker}",
    "one with children": "/executions/{labels}",
    "an earlier step": "/executions/{failed}?seq=3",
    "children": "/executions/{labels}/children",
    "a retry": "/executions/{failed}/actions/retry",
    "a rerun": "/executions/{failed}/actions/rerun?node=paid",
    "a cancel": "/executions/{waiting}/actions/cancel",
    "a node to skip": "/executions/{failed}/actions/skip?node=charge",
    "a wait to complete": "/executions/{waiting}/actions/complete?node=paid",
    "an output to replace": "/executions/{failed}/actions/set-output?node=paid",
    "a variable to set": "/executions/{failed}/actions/set-variable",
    "a breakpoint to choose": "/executions/{waiting}/actions/pause-before",
    "an event to send": "/executions/{waiting}/actions/send-event",
    "what cannot be done": "/executions/{completed 0}/actions/pause",
    "workflows": "/workflows?archived=yes",
    "a workflow": "/workflows/order?version=2&compare=1",
    "one with a schedule": "/workflows/nightly",
    "statistics": "/statistics?period=7d",
    "queues": "/queues",
    "hostile text": "/executions/{hostile}",
    "hostile labels": "/workflows/hostile",
    "nothing": "/executions/00000000-0000-0000-0000-000000000000",
}


@pytest.fixture(params=["light", "dark"])
def themed(request: pytest.FixtureRequest, shop: Shop, browser: Browser) -> Browser:
    browser.theme(request.param)
    browser.size(1280, 900)
    browser.open(shop.signed_on("/workflows"))
    return browser


def test_every_page_is_without_errors_without_other_hosts_and_without_barriers(
    themed: Browser, shop: Shop
) -> None:
    findings: dict[str, list[str]] = {}
    for name, path in PAGES.items():
        themed.complaints(), themed.requests()
        themed.open(shop.address + path.format_map(shop.executions))
        found = [each for each in themed.complaints() if not (name == "nothing" and "404" in each)]
        found += [each for each in themed.requests() if _origin(each) != shop.address]
        found += themed.axe()
        if found:
            findings[name] = found

    assert findings == {}


def _origin(url: str) -> str:
    """Return the scheme, host and port of an address, without the name and password that sign on."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}"


def test_pages_fit_into_a_narrow_window(shop: Shop, browser: Browser) -> None:
    browser.open(shop.signed_on("/workflows"))
    browser.size(400, 900)
    wide = {}
    for name, path in PAGES.items():
        browser.open(shop.address + path.format_map(shop.executions))
        width = browser.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        if width > 0:
            wide[name] = width
    browser.size(1280, 900)

    assert wide == {}


def test_everything_is_reached_and_seen_with_the_keyboard(shop: Shop, browser: Browser) -> None:
    browser.open(shop.signed_on("/workflows"))
    browser.open(f"{shop.address}/executions/{shop.executions['failed']}")
    reached: set[str] = set()
    for _ in range(120):
        browser.driver.switch_to.active_element.send_keys("\ue004")
        active = browser.driver.switch_to.active_element
        reached.add(active.get_attribute("id") or active.text)
        if active.get_attribute("id") == "box-done":
            break

    assert {"seq", "box-charge", "Retry", "Rerun", "Executions"} <= reached


def test_200_hostile_texts_are_shown_and_none_is_obeyed(shop: Shop, browser: Browser) -> None:
    texts = hostile_texts()
    browser.open(shop.signed_on("/workflows"))
    for path in (
        "/executions/{hostile}?node=begun",
        "/executions/{hostile}",
        "/executions/{hostile}?seq=1",
        "/executions/{hostile}/actions/rerun",
        "/executions",
        "/workflows",
        "/workflows/hostile",
    ):
        browser.complaints()
        browser.open(shop.address + path.format_map(shop.executions))
        assert browser.complaints() == [], path
        assert "owned" not in browser.driver.title
        assert browser.driver.title.endswith("Flower")
        for selector in (
            "main script",
            "main img",
            "main style",
            "main h1 ~ h1",
            "[onmouseover]",
            "[onload]",
        ):
            assert browser.all(selector) == [], (path, selector)

    browser.open(f"{shop.address}/executions/{shop.executions['hostile']}?node=begun")
    shown = browser.driver.execute_script("return document.getElementById('node').textContent")
    for text in texts:
        visible = text.encode("unicode_escape").decode() if not text.isprintable() else text
        assert text in shown or not text.isprintable(), visible


def test_nothing_is_shown_and_nothing_done_without_a_sign_on(shop: Shop, browser: Browser) -> None:
    for path in PAGES.values():
        status = browser.driver.execute_async_script(
            "const [address, done] = arguments; fetch(address, {credentials: 'omit'})"
            ".then(answer => done(answer.status), error => done(String(error)))",
            shop.address + path.format_map(shop.executions),
        )
        assert status == 401


def test_a_form_of_another_origin_changes_nothing(shop: Shop, browser: Browser) -> None:
    browser.open(shop.signed_on("/workflows"))
    target = f"{shop.address}/executions/{shop.executions['waiting']}/actions/cancel"
    browser.open(shop.open_address + "/static/favicon.ico")  # another origin, whose page may run scripts
    browser.driver.execute_script(
        "const form = document.createElement('form'); form.method = 'post'; form.action = arguments[0];"
        "document.documentElement.append(form); form.submit()",
        target,
    )

    browser.wait_for("forbidden")
    assert shop.client.get(shop.executions["waiting"]).status == "WAITING"


def test_without_a_sign_on_the_pages_only_show(shop: Shop, browser: Browser) -> None:
    waiting = f"{shop.open_address}/executions/{shop.executions['waiting']}"
    browser.open(waiting)
    browser.wait_for("Actions are off: Flower has no sign-on.")
    assert browser.all(".engine-actions") == []
    browser.open(f"{waiting}/actions/cancel")
    browser.wait_for("Actions are off")
    assert browser.all("main form[method=post]") == []
    status = browser.driver.execute_async_script(
        "const done = arguments[0]; const token = document.cookie.match(/_xsrf=([^;]+)/)[1];"
        "const body = new URLSearchParams({_xsrf: token, reason: 'a test'});"
        "fetch(location.href, {method: 'POST', body}).then(answer => done(answer.status), done)"
    )

    assert status == 403
    assert shop.client.get(shop.executions["waiting"]).status == "WAITING"

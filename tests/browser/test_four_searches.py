"""A new user finds what an operator looks for with the pages alone, by clicking, and within a minute each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from browser.conftest import Shop
from support.chromium import Browser
from support.repository import ROOT

SCREENSHOTS = ROOT / "docs/screenshots"
KEEPS_SCREENSHOTS = bool(os.environ.get("KEEP_SCREENSHOTS"))
"""`make screenshots` sets it: the pictures in the documents are those of these tests."""

MINUTE = 60


@pytest.fixture
def start_page(shop: Shop, browser: Browser) -> Browser:
    """Open Flower as a user does who has just signed on."""
    browser.theme("light")
    browser.size(1280, 900)
    browser.open(shop.signed_on("/"))
    browser.open(shop.address + "/")
    return browser


@contextmanager
def within_a_minute() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < MINUTE


def picture(browser: Browser, name: str, height: int = 900) -> None:
    """Keep a picture for the documents, if it is asked for."""
    if KEEPS_SCREENSHOTS:
        browser.size(1280, height)
        browser.screenshot(SCREENSHOTS / f"{name}.png")
        browser.size(1280, 900)


def test_which_node_failed_and_why(start_page: Browser, shop: Shop) -> None:
    with within_a_minute():
        start_page.click(start_page.link("Executions"))
        picture(start_page, "executions")
        start_page.click(start_page.link("Failed"))
        start_page.click(start_page.find(f'a[href="/executions/{shop.executions["failed"]}"]'))
        start_page.wait_for("Node charge failed: BankRefused")
        start_page.wait_for("card 0013 has expired")
        start_page.wait_for("raise BankRefused")
    picture(start_page, "execution", 1250)


def test_which_executions_wait_for_the_event_paid(start_page: Browser, shop: Shop) -> None:
    with within_a_minute():
        start_page.click(start_page.link("Executions"))
        start_page.find("#text").send_keys("paid")
        start_page.click(start_page.find(".engine-filters button[type=submit]"))
        start_page.wait_for("Clear")
        found = {each.get_attribute("title") for each in start_page.all("td a.engine-id")}
        assert found == {shop.executions[name] for name in ("waiting", "also waiting", "paused")}
        start_page.click(start_page.find(f'a[href="/executions/{shop.executions["waiting"]}"]'))
        start_page.wait_for("WAITING_EVENTS")
        start_page.wait_for("for paid with")
    picture(start_page, "waiting", 1000)


def test_what_a_retry_would_run(start_page: Browser, shop: Shop) -> None:
    with within_a_minute():
        start_page.open(f"{shop.address}/executions/{shop.executions['failed']}")
        start_page.click(start_page.link("Retry"))
        start_page.wait_for("What would run")
        rows = {
            row.text.partition("\n")[0].strip(): row.text.partition("\n")[2].split()
            for row in start_page.all(".engine-preview > div")
        }
        assert rows["Runs at once"] == ["charge"]
        assert rows["May follow"] == ["ship", "done"]
    picture(start_page, "retry", 760)


def test_which_queue_has_no_worker(start_page: Browser, shop: Shop) -> None:
    with within_a_minute():
        start_page.click(start_page.link("Queues"))
        start_page.wait_for("no worker consumes this queue")
        [row] = [row for row in start_page.all("tbody tr") if "no worker consumes this queue" in row.text]
        assert row.text.startswith("gpu")
        assert "NO_WORKER" in start_page.text
    picture(start_page, "queues", 760)


def test_the_step_of_an_execution_is_chosen_with_the_keyboard(start_page: Browser, shop: Shop) -> None:
    start_page.open(f"{shop.address}/executions/{shop.executions['completed 0']}")
    start_page.find("#seq").send_keys("\ue012\ue012")  # the left arrow, twice

    start_page.wait_for("This is how it stood after step 6 of 8.")
    assert start_page.driver.switch_to.active_element.get_attribute("id") == "seq"
    picture(start_page, "step", 1000)


def test_a_page_in_view_shows_what_has_changed_without_being_loaded_again(
    start_page: Browser, shop: Shop
) -> None:
    execution = shop.client.start("order", {"orderId": "live", "card": "4000-0011", "items": 1}).id
    start_page.open(f"{shop.address}/executions/{execution}")
    start_page.wait_for("WAITING")
    start_page.driver.execute_script("window.isTheSamePage = true")

    shop.client.control.cancel(execution, reason="a test")

    start_page.wait_for("CANCELLED")
    assert start_page.driver.execute_script("return window.isTheSamePage") is True


def test_an_operator_pauses_and_resumes_an_execution_by_clicking(start_page: Browser, shop: Shop) -> None:
    execution = shop.client.start("order", {"orderId": "clicked", "card": "4000-0011", "items": 1}).id
    start_page.open(f"{shop.address}/executions/{execution}")
    for action, status in (("Pause", "PAUSED"), ("Resume", "WAITING")):
        start_page.click(start_page.link(action))
        start_page.find("#reason").send_keys(f"{action} by hand")
        start_page.click(start_page.find("main form[method=post] button[type=submit]"))
        start_page.wait_for("The history below has it.")
        start_page.wait_for(status)

    moves = [(each.type, each.actor, each.reason) for each in shop.client.control.audit(execution)]
    assert moves == [("PAUSED", "ann", "Pause by hand"), ("RESUMED", "ann", "Resume by hand")]
    shop.client.control.cancel(execution)


def test_an_operator_skips_the_failed_node_by_clicking(start_page: Browser, shop: Shop) -> None:
    start_page.open(f"{shop.address}/executions/{shop.executions['failed']}")
    start_page.click(start_page.link("Skip"))
    start_page.wait_for("it runs ship")
    start_page.find("#output").send_keys('{"receipt": "paid in cash"}')
    start_page.find("#reason").send_keys("paid in cash")
    picture(start_page, "skip", 860)
    start_page.find("#output").clear()
    start_page.find("#output").send_keys("{not JSON")
    start_page.click(start_page.find("main form[method=post] button[type=submit]"))
    start_page.wait_for("it is no JSON")
    assert start_page.find("#output").get_attribute("value") == "{not JSON"

    execution = shop.client.start("order", {"orderId": "skipped", "card": "4000-0011", "items": 1}).id
    start_page.open(f"{shop.address}/executions/{execution}")
    start_page.wait_for("WAITING_EVENTS")
    start_page.click(start_page.link("Skip"))
    start_page.find("#output").send_keys('{"paid": {"amount": 7}}')
    start_page.find("#reason").send_keys("seen in the bank")
    start_page.click(start_page.find("main form[method=post] button[type=submit]"))
    start_page.wait_for("The history below has it.")
    [skipped] = [each for each in shop.client.control.audit(execution) if each.type == "NODE_SKIPPED"]
    assert (skipped.actor, skipped.reason) == ("ann", "seen in the bank")


def test_a_workflow_is_started_with_its_form(start_page: Browser, shop: Shop) -> None:
    start_page.click(start_page.link("Workflows"))
    start_page.click(start_page.find('a[href="/workflows/order"]'))
    picture(start_page, "workflow", 1250)
    fields = {
        each.text.partition(" ")[0]: each.get_attribute("for") for each in start_page.all("#start label")
    }
    start_page.find(f"#{fields['orderId']}").send_keys("order-by-form")
    start_page.find(f"#{fields['card']}").send_keys("4000-0011")
    start_page.click(start_page.find("#start form.engine-form button[type=submit]"))

    start_page.wait_for("Nodes run")
    execution = start_page.driver.current_url.rpartition("/")[2]
    assert shop.client.context(execution).trigger_data == {
        "orderId": "order-by-form",
        "card": "4000-0011",
        "items": 1,
        "amount": 10,
    }
    shop.client.control.cancel(execution)

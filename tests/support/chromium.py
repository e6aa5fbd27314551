"""A headless Chromium, with what it asked for and what it complained about."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from support.polling import poll

LONGEST_LOAD = 30


class Browser:
    """A browser, and what a test looks for in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._axe = _axe_core()
        self._asked: list[str] = []

    def open(self, address: str) -> None:
        """Open a page, and wait until it is there."""
        self.driver.get(address)

    def theme(self, name: str) -> None:
        """Prefer `light` or `dark` pages, as a person's system does."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def size(self, width: int, height: int) -> None:
        """Change the size of the window."""
        self.driver.set_window_size(width, height)

    def find(self, selector: str) -> WebElement:
        """Return the first element of a CSS selector, waiting for it."""
        return WebDriverWait(self.driver, LONGEST_LOAD).until(
            lambda driver: driver.find_element(By.CSS_SELECTOR, selector)
        )

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def link(self, text: str) -> WebElement:
        """Return the link whose text contains this, waiting for it."""
        return WebDriverWait(self.driver, LONGEST_LOAD).until(
            lambda driver: driver.find_element(By.PARTIAL_LINK_TEXT, text)
        )

    def click(self, element: WebElement) -> None:
        """Click, after scrolling there as a person does."""
        self.driver.execute_script(
            "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element
        )
        element.click()

    def wait_for(self, text: str) -> None:
        """Wait until the page shows a text."""
        poll(
            lambda: text in self.text,
            f"the page shows {text!r}: {self.driver.current_url}",
            timeout=LONGEST_LOAD,
        )

    @property
    def text(self) -> str:
        """All text that the page shows."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def complaints(self) -> list[str]:
        """Return what was logged to the console since the last call, as an error."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING") and "favicon" not in entry["message"]
        ]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call, data within a page left out."""
        asked = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(message["params"]["request"]["url"])
        return [each for each in asked if urlsplit(each).scheme not in ("data", "chrome", "about", "blob")]

    def axe(self) -> list[str]:
        """Return the serious and critical findings of axe-core on the page as it is."""
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": self._axe})  # past the page's policy
        found: dict[str, Any] = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run(document, {resultTypes: ['violations']})"
            ".then(done, error => done({violations: [{impact: 'critical', id: String(error), nodes: []}]}))"
        )
        return [
            f"{each['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"] or [{"html": ""}]
        ]

    def screenshot(self, path: Path) -> None:
        """Write a picture of the window."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(path))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser for the tests that share it; where there is none, skip them."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("there is no Chromium: apt install chromium chromium-driver")
    options = Options()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--window-size=1280,900",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--force-device-scale-factor=1",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, Service(driver))
    started.set_page_load_timeout(LONGEST_LOAD)
    started.set_script_timeout(LONGEST_LOAD)
    try:
        yield Browser(started)
    finally:
        started.quit()


def _axe_core() -> str:
    package = find_spec("axe_playwright_python")
    assert package is not None, "install the extra `browser`"
    assert package.submodule_search_locations is not None
    return (Path(package.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")

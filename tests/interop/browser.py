"""Debian's chromium without a screen, and the dashboard's page in it."""

import json
import os
import shutil
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from process import wait_until

# Told to every page before its own script: what the page's policy has refused.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
    violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


def program(name):
    """The path of a program from Debian's packages. Without it the whole run fails, as without our binaries."""
    path = shutil.which(name)
    if not path:
        pytest.exit(f"{name} is missing: apt-get install chromium chromium-driver", returncode=1)
    return path


class Browser:
    def __init__(self, directory, width=1440, height=900):
        # Selenium would look for drivers, and report that it did.
        os.environ["SE_OFFLINE"], os.environ["SE_AVOID_STATS"] = "true", "true"
        options = webdriver.ChromeOptions()
        options.binary_location = program("chromium")
        for argument in (
            "--headless=new",
            # Root, in a container: neither has the namespaces of its sandbox, nor much shared memory.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            f"--user-data-dir={directory / 'profile'}",
            f"--window-size={width},{height}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=program("chromedriver")))
        self.driver.set_script_timeout(30)
        self.downloads = directory / "downloads"
        self.downloads.mkdir()
        self.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def cdp(self, command, **arguments):
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script, *arguments):
        """What the script returns; it may await."""
        wrapped = f"""
            const done = arguments[arguments.length - 1];
            const run = async () => {{ {script} }};
            run().then((value) => done([true, value]), (cause) => done([false, String(cause)]));"""
        succeeded, value = self.driver.execute_async_script(wrapped, *arguments)
        assert succeeded, f"{value} in {script}"
        return value

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        """What is read at a place, as one string; empty when there is no such place."""
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def is_shown(self, selector):
        return self.run("return !!document.querySelector(arguments[0])?.checkVisibility()", selector)

    def wait_for(self, script, what, *arguments, seconds=15):
        """Waits until the expression is truthy, and returns it."""
        try:
            return wait_until(lambda: self.run(f"return {script}", *arguments), what, seconds)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; the page shows:\n{self.seen()}") from None

    def seen(self):
        """For messages of failures."""
        with suppress(Exception):
            return self.driver.find_element(By.TAG_NAME, "body").text[:2000]

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def open(self, address):
        """Opens an address as a page of its own: another fragment alone would load nothing."""
        self.driver.get("about:blank")
        self.driver.get(address)

    def emulate(self, **features):
        """Media features, as prefers_color_scheme="dark"."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", features=named)

    def resize(self, width, height):
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def forget(self):
        """Makes it a browser that has seen nothing."""
        self.driver.get("about:blank")
        self.cdp("Network.clearBrowserCookies")
        self.cdp("Emulation.clearDeviceMetricsOverride")
        self.emulate()
        self.requests()
        self.driver.get_log("browser")

    def requests(self):
        """The addresses that pages have asked for since the last time, but for data in addresses."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [address for address in found if urlsplit(address).scheme not in ("data", "blob", "about", "chrome")]

    def complaints(self):
        """What the policy has refused, and faults of scripts, since the last time."""
        severe = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        # A request that is refused or meets no broker is told, too.
        faults = [text for text in severe if "Failed to load resource" not in text and "net::ERR_" not in text]
        return faults + self.run("return violations")

    def close(self):
        self.driver.quit()

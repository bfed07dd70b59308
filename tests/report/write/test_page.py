"""report.html in a browser, from disk, without a network: what a reader sees."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="the browser test needs chromium and chromium-driver")

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, report):
    browser.get_log("browser")
    browser.get(f"file://{report}/report.html")
    return browser


def column(page, table: str, number: int) -> list[str]:
    cells = page.find_elements("css selector", f"#table-{table} tbody td:nth-child({number})")
    return [cell.text.splitlines()[0] for cell in cells]


def test_no_console_messages_and_every_image_loads(page):
    assert page.get_log("browser") == []
    images = page.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(images) == 5
    assert all(complete and width > 0 for complete, width in images)


def test_the_page_refers_to_nothing_outside_itself(report):
    html = (report / "report.html").read_text()
    references = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert {reference.split(":")[0] for reference in references if not reference.startswith("#")} == {"data"}


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_the_page(page, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    outside = page.execute_script(
        "return [...document.querySelectorAll('body *')]"
        ".filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
    )
    assert outside == []


def test_click_on_a_head_sorts_both_ways(page):
    name = "vit-on-glyphs-ff-sparse-cost"
    assert column(page, name, 2)[:2] == ["dense", "SR-STE"]
    head = page.find_element("css selector", f"#table-{name} thead th:nth-child(4)")
    page.execute_script("arguments[0].querySelector('button').click()", head)
    assert head.get_attribute("aria-sort") == "ascending"
    flops = column(page, name, 4)
    assert (flops[0], flops[-1]) == ("5.00 GFLOPs", "10.0 GFLOPs")  # as text, 10.0 would come first
    page.execute_script("arguments[0].querySelector('button').click()", head)
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, name, 4) == flops[::-1] or column(page, name, 4)[0] == "10.0 GFLOPs"


def test_text_sorts_and_empty_cells_stay_last(page):
    head = page.find_element("css selector", "#table-runs thead th:nth-child(7)")
    for direction in ("ascending", "descending"):
        page.execute_script("arguments[0].querySelector('button').click()", head)
        assert head.get_attribute("aria-sort") == direction
        assert column(page, "runs", 7)[-2:] in (["–!", "–"], ["–", "–!"])


def test_a_number_leads_to_all_its_runs(page):
    link = page.find_element(
        "css selector", "#table-vit-on-glyphs-ff-sparse-accuracy tbody tr:nth-child(2) td:nth-child(6) a"
    )
    page.execute_script("arguments[0].click()", link)
    behind = page.execute_script(
        "return new Promise(done => setTimeout(() => done([...document.querySelectorAll('tr.behind')]"
        ".map(row => row.cells[0].innerText)), 100))"
    )
    assert behind == [f"sdgf_stepwise-1of8-s{seed}" for seed in range(3)]


def test_numbers_in_the_advice_lead_to_their_runs_too(page):
    linked = page.execute_script(
        "return [...document.querySelectorAll('.advice li:last-child a')]"
        ".map(a => [a.innerText.split(' with ')[0], a.getAttribute('href').split('1of8-')[1]])"
    )
    assert ["SR-STE", "sr-ste"] in linked


def test_every_link_has_its_target(page):
    missing = page.execute_script(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
        ".filter(id => !document.getElementById(id))"
    )
    assert missing == []


def test_each_figure_carries_its_data(page, report):
    for link in page.find_elements("css selector", "figcaption a"):
        kind, content = link.get_attribute("href").split(",", 1)
        assert kind == "data:text/csv;base64"
        saved: Path = report / "figures" / link.get_attribute("download")
        assert base64.b64decode(content) == saved.read_bytes()

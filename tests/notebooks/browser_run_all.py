"""Opens a notebook in a real JupyterLab with headless Chromium, says Run > Run All Cells, and takes a picture.

    python tests/notebooks/browser_run_all.py LAB_URL NOTEBOOK PICTURE.png

LAB_URL holds the token, as `make lab` prints it. Prints as JSON what the notebook shows: the texts of its outputs, how many
figures and tables, errors, and the addresses outside the server that were asked for. Exit 1 if a cell failed.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import Request, urlopen

from playwright.sync_api import Page, sync_playwright

CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
END_S, AGAIN_S, DRAWN_S = 120, 5, 20
SCREEN, WHOLE = {"width": 1400, "height": 1000}, {"width": 1400, "height": 3200}
OUTPUT = ".jp-Notebook .jp-OutputArea-output"
STARTED = "() => [...document.querySelectorAll('.jp-InputPrompt')].some(p => /[0-9*]/.test(p.innerText))"
FAILED = f'{OUTPUT}[data-mime-type="application/vnd.jupyter.error"]'
IDLE = ".jp-Notebook-ExecutionIndicator[data-status='idle']"
# A cell has run when its prompt holds a number; an empty one is never run.
ALL_RAN = """() => {
    const written = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell")]
        .filter(cell => cell.querySelector(".cm-content")?.innerText.trim());
    return written.length && written.every(cell => /\\d/.test(cell.querySelector(".jp-InputPrompt").innerText));
}"""


def run_all(url: str, notebook: str, picture: Path, chromium: str) -> dict:
    """Return what the notebook shows after Run All; raises TimeoutError if it does not come to its end."""
    place = urlsplit(url)
    _start_kernel(place, notebook)
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, args=list(CHROMIUM))
        page = browser.new_page(viewport=SCREEN)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{place.scheme}://{place.netloc}/lab/tree/{notebook}?{place.query}&reset")
        page.wait_for_selector(IDLE, state="attached", timeout=60_000)
        began, chosen = time.monotonic(), None
        while not page.evaluate(ALL_RAN) and not page.locator(FAILED).count():
            if not page.evaluate(STARTED) and (chosen is None or time.monotonic() - chosen > AGAIN_S):
                _choose(page, "Run", "runmenu:run-all")  # lost, and no cell waits for it, before the kernel listens
                chosen = time.monotonic()
            if time.monotonic() - began > END_S:
                page.screenshot(path=picture)
                raise TimeoutError(f"{notebook} did not come to its end in {END_S} s; see {picture}")
            page.wait_for_timeout(500)
        page.set_viewport_size(WHOLE)  # cells off the screen are not drawn
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
        drawn, before, began = page.locator(f"{OUTPUT} :is(img, svg, table)"), -1, time.monotonic()
        while (count := drawn.count()) != before and time.monotonic() - began < DRAWN_S:
            before = count
            page.wait_for_timeout(2000)
        page.screenshot(path=picture)
        shown = {
            "outputs": page.locator(OUTPUT).all_inner_texts(),
            "figures": page.locator(f"{OUTPUT} img, {OUTPUT} svg").count(),
            "tables": page.locator(f"{OUTPUT} table").count(),
            "errors": page.locator(FAILED).count(),
            "outside": sorted({u for u in asked if u.startswith("http") and urlsplit(u).netloc != place.netloc}),
        }
        browser.close()
    return shown


def _start_kernel(place: SplitResult, notebook: str) -> None:
    # The page finds the notebook's kernel then; else a slow machine asks for one, and another is started beside the first.
    asked = {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
    address = f"{place.scheme}://{place.netloc}/api/sessions?{place.query}"
    request = Request(address, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        assert answer.status == 201


def _choose(page: Page, menu: str, command: str) -> None:
    for accept in page.locator("dialog.jp-Dialog button.jp-mod-accept").all():
        accept.click()  # a slow machine may ask for the kernel all the same
    page.click(f"li.lm-MenuBar-item:has-text('{menu}')")
    page.wait_for_timeout(500)  # the menu is filled while it opens
    page.click(f"li.lm-Menu-item[data-command='{command}']")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("notebook")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    shown = run_all(args.url, args.notebook, args.picture, args.chromium)
    print(json.dumps(shown, ensure_ascii=False))
    sys.exit(1 if shown["errors"] else 0)

"""Draw docs/explore.png, the page of `edgesea explore` for the demo's run: python tools/explore_picture.py RUN."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from edgesea.explorer import explore


def main() -> None:
    run = Path(sys.argv[1])
    if not (page_path := run / "explore" / "explore.html").is_file():
        explore(run)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(page_path.resolve().as_uri())
        page.locator("#worst button").nth(2).click()
        page.wait_for_timeout(2500)
        shot = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    path = Path(__file__).parents[1] / "docs" / "explore.png"
    shot.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()

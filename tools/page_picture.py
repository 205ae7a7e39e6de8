"""The README's picture of the live page: a real run, wide and on a phone.

    python -m tools.page_picture [docs/page.webp]

The pump runs at 50,000 ticks a second; a Chromium looks at its page for a minute,
once in light and once, as narrow as a phone, in dark.
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

RUN = ["-m", "quants", "run", "--tick-rate", "50000", "--metrics-port", "0"]
SECONDS = 62  # the line is full
WIDE = {"viewport": {"width": 1200, "height": 1135}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 1135}, "color_scheme": "dark"}
BETWEEN = 24  # pixels
KILOBYTES = 150

Pictures = Sequence[Image.Image]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def photographs(url: str) -> Pictures:
    """The page twice, watched side by side."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        looks: list[dict[str, Any]] = [WIDE, PHONE]
        pages = [browser.new_page(**look) for look in looks]
        for page in pages:
            page.goto(url)
        time.sleep(SECONDS)
        pictures = [Image.open(io.BytesIO(page.screenshot())) for page in pages]
        browser.close()
    return pictures


def beside(pictures: Pictures) -> Image.Image:
    """The pictures in one, next to each other."""
    width = sum(picture.width + BETWEEN for picture in pictures) - BETWEEN
    whole = Image.new("RGBA", (width, max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + BETWEEN
    return whole


def run() -> Pictures:
    """Photograph the page of a pump that runs in a temporary folder."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, *RUN], cwd=folder, stderr=subprocess.PIPE, text=True
        ) as pump,
    ):
        assert pump.stderr is not None
        lines = iter(pump.stderr.readline, "")
        found = (re.match("metrics: (.+)", line) for line in lines)
        url = next(match[1] for match in found if match)
        try:
            return photographs(url)
        finally:
            pump.terminate()
            pump.communicate()


def main() -> int:
    """Make the picture; 1 if it is too large for a README."""
    path = Path(sys.argv[1] if sys.argv[1:] else "docs/page.webp")
    path.parent.mkdir(exist_ok=True)
    picture = beside(run())
    picture.save(path, quality=60, method=6)
    size = path.stat().st_size / 1000
    print(f"{path}: {picture.width} x {picture.height}, {size:.0f} kB")
    return int(size > KILOBYTES)


if __name__ == "__main__":
    raise SystemExit(main())

"""Pictures of the console's pages, wide and narrow, light and dark: `python -m bench.console_pictures FOLDER`.

Needs Chromium and its driver. The home is `bench.console_world`'s; nothing of the machine is in the pictures.
"""

import argparse
import io
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.console_world import PASSWORD, World, make_world
from relations.errors import DependencyFailed

WIDE, NARROW = 1280, 360
TALLEST = 2_400
"""What is further down is not in the picture."""
COLOURS = 128
"""Of a picture: pages are flat, and a palette makes them a third as large."""


def pages_of(world: World) -> dict[str, str]:
    return {
        "queue": "/",
        "trials": "/trials",
        "trial": f"/trials/{world.trial}",
        "champions": "/champions",
        "break-glass": "/break-glass",
        "compare": "/compare?a=2&b=7",
        "data": "/data",
        "people": "/people",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.console_pictures", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", action="append", help="only these: sign-in, queue, trials, trial, champions, …")
    parser.add_argument("--theme", action="append", choices=("light", "dark"))
    parser.add_argument("--width", action="append", type=int)
    stated = parser.parse_args(arguments)
    stated.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        world = make_world(Path(scratch) / "world", tracking="")  # an MLflow that is away would be an alarm on the page
        with served(world) as address, chromium(Path(scratch) / "profile") as driver:
            for file in photograph(
                driver,
                address,
                world,
                folder=stated.folder,
                only=stated.page,
                themes=stated.theme or ("light", "dark"),
                widths=stated.width or (WIDE, NARROW),
            ):
                print(f"{file} {file.stat().st_size:,} bytes")
    return 0


def photograph(
    driver: Any,
    address: str,
    world: World,
    *,
    folder: Path,
    only: Sequence[str] | None,
    themes: Sequence[str],
    widths: Sequence[int],
) -> Iterator[Path]:
    for theme in themes:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for width in widths:
            look = f"{'wide' if width > 600 else 'narrow'}-{theme}"
            driver.delete_all_cookies()
            for name, path in {"sign-in": "/sign-in", **pages_of(world)}.items():
                if name != "sign-in" and not driver.get_cookies():
                    _sign_in(driver, address)
                if only and name not in only:
                    continue
                _size(driver, width, 800)
                driver.get(f"{address}{path}")
                _size(driver, width, min(_height(driver), TALLEST))
                yield _saved(driver.get_screenshot_as_png(), folder / f"console-{name}-{look}.png")
                if name == "sign-in":
                    driver.delete_all_cookies()


@contextmanager
def served(world: World) -> Iterator[str]:
    """The console on `world`, in a thread; gives its address."""
    import uvicorn

    from serving.console.app import create_console

    config = uvicorn.Config(create_console(world.home, world.settings), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Headless, and quiet. Raises DependencyFailed where it is not installed."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise DependencyFailed("Chromium or its driver is missing; apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "hide-scrollbars",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield page
    finally:
        page.quit()


def _sign_in(driver: Any, address: str) -> None:
    driver.get(f"{address}/sign-in")
    driver.find_element("name", "name").send_keys("dana")
    driver.find_element("name", "password").send_keys(PASSWORD)
    driver.find_element("css selector", "main form button").click()


def _size(driver: Any, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _height(driver: Any) -> int:
    return int(driver.execute_script("return document.documentElement.scrollHeight"))


def _saved(png: bytes, file: Path) -> Path:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    return file


if __name__ == "__main__":
    raise SystemExit(main())

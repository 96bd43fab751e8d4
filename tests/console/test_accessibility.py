"""Every page by an automatic check (axe-core) and by a keyboard: light and dark, wide and narrow, small, and alone."""

import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.console_world import World

WIDE, NARROW = 1280, 360
LIGHT, DARK = "light", "dark"
MOST_BYTES = 300_000
"""Of a page with all that it asks for."""
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
EVIDENCE = "/evidence"
"""The page to keep: in a sandbox that runs nobody's scripts, the checker's neither, so a copy of it is checked."""
FOCUSABLE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def axe() -> str:
    found = importlib.util.find_spec("axe_playwright_python")
    assert found is not None
    assert found.submodule_search_locations is not None
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


def look(browser: Any, *, width: int, theme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def pages_of(world: World) -> dict[str, str]:
    trial = f"/trials/{world.trial}"
    return {
        "queue": "/",
        "trials": "/trials",
        "a trial that waits": trial,
        "its evidence": f"{trial}{EVIDENCE}",
        "a trial that was rejected": "/trials/trial-3",
        "champions": "/champions",
        "break the glass": "/break-glass",
        "compare, to choose": "/compare",
        "compare": "/compare?a=2&b=7",
        "data": "/data",
        "people": "/people",
        "nothing there": "/nothing",
    }


@pytest.fixture(scope="module")
def signed_in(console_for_all: Any, browser: Any) -> Any:
    """dana, who has every role and so sees every control; she has submitted nothing."""
    browser.scripts(allowed=True)
    look(browser, width=WIDE, theme=LIGHT)
    browser.open(console_for_all.address, "dana")
    return browser


@pytest.fixture
def visited(signed_in: Any, console_on: Callable[..., Any]) -> Iterator[Callable[[World], Any]]:
    """`visited(world)`: the browser on that world's console, as dana; afterwards it is where it was."""
    cookies, before = signed_in.driver.get_cookies(), signed_in.address

    def go(world: World) -> Any:
        signed_in.open(console_on(world).address, "dana")
        return signed_in

    yield go
    signed_in.driver.delete_all_cookies()
    signed_in.address = before
    signed_in.go("/sign-in")
    for cookie in cookies:
        signed_in.driver.add_cookie(cookie)


def violations(browser: Any, axe: str) -> list[str]:
    """What axe finds that is serious, or against WCAG 2.2 A or AA, with where."""
    browser.run(axe)
    found = browser.driver.execute_async_script(
        "const done = arguments[1];"
        "axe.run(document, {runOnly: {type: 'tag', values: arguments[0]}, resultTypes: ['violations']})"
        ".then(r => done(r.violations), e => done([{id: String(e), impact: 'critical', tags: [], nodes: []}]))",
        WCAG,
    )
    return [
        f"{each['id']} ({each['impact']}): {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found
        if each["impact"] in ("serious", "critical") or "best-practice" not in each["tags"]
    ]


def test_the_automatic_check_finds_what_is_wrong(signed_in: Any, axe: str) -> None:
    signed_in.go("/compare")
    signed_in.run("document.querySelectorAll('label').forEach(l => l.remove())")
    signed_in.run(
        "document.querySelector('h1').style.color = '#ddd'; document.querySelector('h1').style.background='#fff'"
    )
    found = " ".join(violations(signed_in, axe))
    assert "select-name" in found
    assert "color-contrast" in found


@pytest.mark.parametrize(("width", "theme"), [(WIDE, LIGHT), (NARROW, DARK)])
def test_axe_finds_nothing_serious_on_any_page(
    signed_in: Any, console_for_all: Any, axe: str, tmp_path: Path, width: int, theme: str
) -> None:
    look(signed_in, width=width, theme=theme)
    found = {}
    for name, path in pages_of(console_for_all.world).items():
        signed_in.go(path)
        if path.endswith(EVIDENCE):
            copy = tmp_path / "evidence.html"
            copy.write_text(signed_in.driver.page_source, encoding="utf-8")
            signed_in.driver.get(copy.as_uri())
        found[name] = violations(signed_in, axe)
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(("width", "theme"), [(NARROW, LIGHT), (WIDE, DARK)])
def test_axe_finds_nothing_serious_on_refusals_and_signing_in(
    signed_in: Any, console_for_all: Any, axe: str, width: int, theme: str
) -> None:
    look(signed_in, width=width, theme=theme)
    page = f"/trials/{console_for_all.world.trial}"
    signed_in.go(page)
    signed_in.run("document.querySelectorAll('textarea').forEach(field => field.required = false)")
    signed_in.press(f"{page}/approve")
    assert signed_in.status == 422
    assert violations(signed_in, axe) == []
    cookies = signed_in.driver.get_cookies()
    signed_in.open(console_for_all.address)
    assert violations(signed_in, axe) == []
    signed_in.type("/sign-in", "name", "ada")
    signed_in.type("/sign-in", "password", "wrong")
    signed_in.press("/sign-in")
    assert signed_in.status == 401
    assert violations(signed_in, axe) == []
    for cookie in cookies:
        signed_in.driver.add_cookie(cookie)


def test_each_page_says_what_it_is(signed_in: Any, console_for_all: Any) -> None:
    titles: Counter[str] = Counter()
    for name, path in pages_of(console_for_all.world).items():
        signed_in.go(path)
        told = signed_in.run(
            "return {lang: document.documentElement.lang, title: document.title,"
            " h1: [...document.querySelectorAll('h1')].map(h => h.innerText.trim()),"
            " main: document.querySelectorAll('main').length,"
            " skipped: [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => Number(h.tagName[1]))}"
        )
        assert told["lang"] == "en", name
        assert len(told["h1"]) == 1, (name, told["h1"])
        assert told["h1"][0], name
        assert told["main"] == 1, name
        levels = told["skipped"]
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels)), (name, levels)
        titles[told["title"]] += 1
    assert "" not in titles
    # One page may have two addresses: compare before and after the choice.
    assert sum(count - 1 for count in titles.values()) <= 1, titles


def test_everything_can_be_reached_and_seen_by_keyboard_alone(signed_in: Any, console_for_all: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    look(signed_in, width=WIDE, theme=LIGHT)
    for path in (f"/trials/{console_for_all.world.trial}", "/champions", "/break-glass", "/compare", "/"):
        signed_in.go(path)
        # What a closed <details> hides is reached when it is open.
        count = signed_in.run(
            "document.querySelectorAll('details').forEach(d => d.open = true);"
            "window.order = [...document.querySelectorAll(arguments[0])];"
            "window.order = window.order.filter(e => !e.disabled && e.checkVisibility());"
            "document.activeElement.blur(); return window.order.length",
            FOCUSABLE,
        )
        assert count >= 5
        reached = []
        for _ in range(count):
            ActionChains(signed_in.driver).send_keys(Keys.TAB).perform()
            place, shown, html = signed_in.run(
                "const e = document.activeElement, s = getComputedStyle(e);"
                "const drawn = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0 || s.boxShadow !== 'none';"
                "return [window.order.indexOf(e), drawn, e.outerHTML.slice(0, 120)]"
            )
            assert shown, f"{path}: nobody sees where the focus is: {html}"
            reached.append(place)
        assert reached == list(range(count)), path


@pytest.mark.parametrize(("width", "theme"), [(WIDE, LIGHT), (NARROW, DARK)])
def test_broken_glass_is_sound_to_look_at_and_to_hear(
    visited: Callable[..., Any], world_of: Callable[..., World], axe: str, width: int, theme: str
) -> None:
    """Refused, waiting and in force: on its own page, in the queue and among the champions."""
    world = world_of("canary")
    browser = visited(world)
    look(browser, width=width, theme=theme)
    browser.go("/break-glass")
    browser.choose("/break-glass", "version", "2")
    browser.act("/break-glass", " ")
    assert browser.status == 422
    found = {"refused": violations(browser, axe)}
    asked = world.ledger.ask_break_glass(2, hours=4, actor="ada", reason="r" * 200, now=datetime.now(UTC))
    for state in ("asked", "in force"):
        for path in ("/break-glass", "/", "/champions"):
            browser.go(path)
            found[f"{path}, {state}"] = violations(browser, axe)
            assert browser.run("return document.documentElement.scrollWidth") <= width, (path, state)
        if state == "asked":
            world.ledger.confirm_break_glass(asked.number, actor="ben", reason="seen", now=datetime.now(UTC))
    assert {name: each for name, each in found.items() if each} == {}


def test_a_form_can_be_sent_by_keyboard_alone(visited: Callable[..., Any], world_of: Callable[..., World]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    world = world_of("canary")
    browser, page = visited(world), f"/trials/{world.trial}"
    browser.go(page)
    field = browser.one(f'form[action="{page}/stop"] [name="reason"]')
    browser.run("arguments[0].closest('details')?.setAttribute('open', '')", field)
    browser.run("arguments[0].focus()", field)
    browser.leave(ActionChains(browser.driver).send_keys("not needed any more", Keys.TAB, Keys.ENTER).perform)
    assert "is stopped without a verdict" in browser.message


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_a_narrow_screen_scrolls_down_only(signed_in: Any, console_for_all: Any, theme: str) -> None:
    look(signed_in, width=NARROW, theme=theme)
    wide = {}
    for name, path in pages_of(console_for_all.world).items():
        signed_in.go(path)
        width = signed_in.run("return document.documentElement.scrollWidth")
        if width > NARROW:
            wide[name] = width
    assert wide == {}


def test_a_page_is_small_and_asks_nobody_else(signed_in: Any, console_for_all: Any) -> None:
    signed_in.driver.get_log("performance")
    signed_in.driver.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
    for name, path in pages_of(console_for_all.world).items():
        signed_in.go(path)
        events = [json.loads(entry["message"])["message"] for entry in signed_in.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        assert f"{console_for_all.address}{path}" in asked
        beyond = [url for url in asked if not url.startswith((f"{console_for_all.address}/", "data:"))]
        assert beyond == [], name
        came = sum(event["params"]["dataLength"] for event in events if event["method"] == "Network.dataReceived")
        assert 1_000 < came <= MOST_BYTES, (name, came)
    # An answer of 404 is told as an error; and what the sandbox blocked were the tests' own questions.
    expected = ("the server responded with a status of 4", "'allow-scripts' permission is not set")
    told = [entry["message"] for entry in signed_in.driver.get_log("browser")]
    assert [message for message in told if not any(each in message for each in expected)] == []


def test_times_are_for_machines_too(signed_in: Any, console_for_all: Any) -> None:
    signed_in.go("/champions")
    stated = signed_in.run("return [...document.querySelectorAll('main time')].map(t => t.dateTime)")
    assert len(stated) >= 4
    assert all(datetime.fromisoformat(time).tzinfo is not None for time in stated)
    assert max(map(datetime.fromisoformat, stated)) <= datetime.now(UTC)

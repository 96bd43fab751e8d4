"""The API by its own document: what it states, schemathesis against the running server, and the page in a browser."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel

from serving.web.openapi import EXAMPLES, MODELS
from stores.api_keys import Role, add_key
from stores.catalogue import Catalogue, publish

REPOSITORY = Path(__file__).parents[2]
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
CATEGORIES = ("lamps", "chairs", "größe 🛒")


@pytest.fixture
def serve(shop: Any) -> Iterator[Any]:
    """Start the real server on the shop's home; returns its address."""
    started: list[subprocess.Popen[bytes]] = []

    def serve() -> str:
        announcement = shop.home.run / "serving.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.run", "--home", str(shop.home.root), "--port", "0"],
            cwd=REPOSITORY,
            # A busy machine is no finding: nothing is refused for being late.
            env={**os.environ, "RATCHET_SERVING__QUEUE_MS": "100000", "RATCHET_SERVING__TIMEOUT_MS": "100000"},
        )
        started.append(process)
        deadline = time.monotonic() + 60
        while not announcement.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        return f"http://127.0.0.1:{json.loads(announcement.read_text())['port']}"

    yield serve
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert [row for row in shop.home.run.iterdir() if row.name == "serving.json"] == []


def described(client: TestClient) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_route_is_described_with_all_that_it_may_answer(start: Callable[..., TestClient]) -> None:
    client = start()
    document = described(client)
    found = {(method, path) for method, path, _ in operations(document)}
    routes = [route for route in client.app.routes if isinstance(route, APIRoute)]  # type: ignore[attr-defined]
    assert found == {(m.lower(), r.path) for r in routes if r.include_in_schema for m in r.methods or ()}
    assert {route.path for route in routes if not route.include_in_schema} == {
        "/docs",
        "/docs/start.js",
        "/docs/{name}",
    }
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations(document):
        assert operation["summary"], path
        assert set(operation["tags"]) <= tags
        statuses = {"200", "401", "403", "405", "500"}
        if method != "get":
            statuses |= {"400", "413", "415", "422", "503"}
            assert operation["requestBody"]["content"]["application/json"]["examples"], path
        assert set(operation["responses"]) >= statuses, path
        (answer,) = operation["responses"]["200"]["content"].values()
        assert answer["schema"]
        assert answer.get("examples") or answer.get("example"), path
    for status, response in document["components"]["responses"].items():
        problem = response["content"]["application/problem+json"]
        assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert {str(example["value"]["status"]) for example in problem["examples"].values()} == {status}
    assert set(document["components"]["responses"]["503"]["headers"]) == {"Retry-After"}
    references = json.dumps(document).split('"$ref": "#/components/')[1:]
    for reference in references:
        kind, _, name = reference.partition('"')[0].partition("/")
        assert name in document["components"][kind]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_examples_fit_their_schemas(model: type[BaseModel], start: Callable[..., TestClient]) -> None:
    examples = EXAMPLES.get(model, {}).values()
    schema = {"$ref": f"#/components/schemas/{model.__name__}", "components": described(start())["components"]}
    for example in examples:
        model.model_validate(example["value"])
        jsonschema.Draft202012Validator(schema).validate(example["value"])


def test_the_document_says_whether_keys_are_asked_for(shop: Any, start: Callable[..., TestClient]) -> None:
    client = start()
    assert all(operation["security"] == [] for _, _, operation in operations(described(client)))
    add_key(shop.home.api_keys, name="k", roles=list(Role), lifetime=None, now=datetime.now(UTC))
    security = {path: operation["security"] for _, path, operation in operations(described(start()))}
    assert security["/v1/recommend"] == [{"key": ["recommend"]}]
    assert security["/v1/feedback"] == [{"key": ["feedback"]}]
    assert security["/metrics"] == [{"key": ["admin"]}]
    assert security["/healthz"] == security["/readyz"] == []


def test_the_page_is_this_servers_alone(start: Callable[..., TestClient]) -> None:
    client = start()
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text  # nothing from elsewhere, and nothing inline for which the policy would be loosened
    for part in ("default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert part in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for name, kind in (("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript")):
        file = client.get(f"/docs/{name}")
        assert (file.status_code, file.headers["content-type"].partition(";")[0]) == (200, kind)
        assert file.headers["x-content-type-options"] == "nosniff"
    for name in ("core.py", "..%2Fcore.py", "../static/swagger-ui.css", "redoc.standalone.js", ""):
        assert client.get(f"/docs/{name}").status_code == 404


@pytest.mark.servers
@pytest.mark.parametrize("closed", [True, False])
def test_schemathesis_finds_nothing(shop: Any, serve: Any, tmp_path: Path, closed: bool) -> None:
    shop.crown()
    shop.trial(shop.version())  # to be killed
    shop.publish(*shop.items)
    offered = {item: (True, float(n), [CATEGORIES[n % 3]]) for n, item in enumerate(shop.items)}
    publish(shop.home.catalogue, Catalogue.of(offered))
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{serve()}/openapi.json", "--checks", "all"]
    command += ["--max-examples", "15", "--seed", "1", "--generation-database", "none", "--no-color"]
    if closed:
        _, key = add_key(shop.home.api_keys, name="st", roles=list(Role), lifetime=None, now=datetime.now(UTC))
        command += ["--header", f"Authorization: Bearer {key}"]
        wait_until_closed(command[4])
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS), "RATCHET_CATEGORIES": ",".join(CATEGORIES)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, "\n".join(line[:500] for line in done.stdout.splitlines()) + done.stderr[-2_000:]
    assert "No issues found" in done.stdout, done.stdout[-2_000:]


def wait_until_closed(url: str) -> None:
    host = url.removeprefix("http://").partition("/")[0]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", "/metrics")
        status = connection.getresponse().status
        connection.close()
        if status == 401:
            return
        time.sleep(0.05)
    raise AssertionError("the key does not count")


@pytest.mark.servers
@pytest.mark.parametrize("closed", [True, False])
def test_a_browser_tries_the_api_out(shop: Any, serve: Any, tmp_path: Path, closed: bool) -> None:
    """Chromium opens /docs, shows its key where one is needed, sends the example, and sees the answer."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    shop.crown()
    shop.publish(*shop.items)
    key = None
    if closed:
        _, key = add_key(
            shop.home.api_keys, name="browser", roles=[Role.RECOMMEND], lifetime=None, now=datetime.now(UTC)
        )
    address = serve()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    for flag in ("disable-background-networking", "disable-component-update", f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        page.set_window_size(1200, 2000)
        wait = WebDriverWait(page, 60)

        def click(selector: str) -> None:
            found = wait.until(lambda _: page.find_elements(By.CSS_SELECTOR, selector))
            page.execute_script("arguments[0].click()", found[0])  # wherever it has scrolled to

        page.get(f"{address}/docs")
        route = "#operations-recommend-recommend"
        if key is not None:
            click("button.authorize")
            (field,) = wait.until(lambda _: page.find_elements(By.CSS_SELECTOR, ".modal-ux input"))
            field.send_keys(key)
            click(".modal-ux button.authorize")
            click(".modal-ux button.btn-done")
        click(f"{route} .opblock-summary-control")
        click(f"{route} .try-out__btn")
        click(f"{route} .execute")
        status = f"{route} .live-responses-table tbody .response-col_status"
        wait.until(lambda _: page.find_elements(By.CSS_SELECTOR, status))
        assert page.find_element(By.CSS_SELECTOR, status).text == "200"
        told = page.find_element(By.CSS_SELECTOR, f"{route} .live-responses-table tbody").text
        assert '"request_id"' in told
        assert '"digest"' in told
        if folder := os.environ.get("RATCHET_TEST_PICTURES"):
            page.save_screenshot(Path(folder) / f"docs-{closed}.png")
        assert page.get_log("browser") == []  # no error, and nothing that the policy held back
        events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        assert {url for url in asked if url.startswith("http") and not url.startswith(f"{address}/")} == set()
    finally:
        page.quit()

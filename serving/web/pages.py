"""The API's page for people: Swagger UI from an installed package, without a request to anywhere else."""

import importlib.util
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from relations.errors import DependencyFailed

PACKAGE = "fastapi_offline"
"""Ships Swagger UI's own files; none of its code is run."""
FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "favicon.png": "image/png"}

# Everything from this server alone, but for pictures in data: URLs, which are the arrows and locks of its style sheet.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

# Addresses are relative, so that the page also works below a proxy's path.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ratchet: the recommend API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""


def add_pages(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs(_request: Request) -> Response:
        return Response(PAGE, media_type="text/html", headers=HEADERS)

    @app.get("/docs/start.js", include_in_schema=False)
    async def start(_request: Request) -> Response:
        return Response(START, media_type="text/javascript", headers=HEADERS)

    @app.get("/docs/{name}", include_in_schema=False)
    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(_folder() / name, media_type=FILES[name], headers=HEADERS)


def _folder() -> Path:
    # Found, not imported: serving needs none of its code.
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise DependencyFailed(f"{PACKAGE}: not installed; pip install 'ratchet-rec[serve]'")
    return Path(found.origin).parent / "static"

"""Serving a spec's folder over HTTP: its files, and nothing else that lies there."""

from __future__ import annotations

from aiohttp import web

from moesubnet.spec.content import LoadedSpec


def build_app(spec: LoadedSpec) -> web.Application:
    """`GET /spec.json` and the files that it names, with their paths."""

    async def file(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(
            spec.root / request.path.lstrip("/"),
            headers={"Content-Type": "application/octet-stream", "Cache-Control": "no-cache"},
        )

    app = web.Application()
    for path in dict.fromkeys(["spec.json", *(file.path for file in spec.spec.files)]):
        app.router.add_get("/" + path, file)
    return app

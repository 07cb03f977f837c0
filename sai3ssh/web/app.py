"""What the page answers: shells of HTML, JSON that they fetch again and again, metrics, and the files of runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from io import BufferedReader
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import Sai3sshError
from ..protocol import Json
from ..report import page as report
from . import metrics
from .artefacts import SANDBOX, artefacts, content_type, open_artefact
from .catalogue import BROKEN, Catalogue
from .comparing import Comparisons
from .documents import Documents
from .live import live
from .prepared import Prepared, prepare, prepare_json

STATIC = {".css": "text/css", ".js": "text/javascript"}
OF_REPORTS = ("echarts.min.js", "report.css")
CHUNK_BYTES = 1 << 16
WAITING = 4
"""So many comparisons may wait; who comes then is asked to come again."""


class Page:
    """All answers. One thread reads run directories, one makes documents, one compares runs: whoever watches cannot take more of this
    machine than that."""

    def __init__(self, results_dir: Path) -> None:
        self.catalogue = Catalogue(results_dir)
        self.comparisons = Comparisons(self.catalogue)
        self.documents = Documents(self.catalogue)
        self.asked_s = 0.0
        """When something was asked for last, by time.monotonic()."""
        self._static = _static()
        self._reader = ThreadPoolExecutor(1, "page")
        self._writer = ThreadPoolExecutor(1, "documents")
        self._comparer = ThreadPoolExecutor(1, "compare")
        self._comparing = 0

    def routes(self) -> list[Route]:
        """All addresses there are."""
        return [
            Route("/", self._shell("list.html")),
            Route("/compare", self._shell("compare.html")),
            Route("/runs/{run}", self._shell("run.html", of_run=True)),
            Route("/runs/{run}/files/{name:path}", self.file),
            Route("/api/runs", self.list),
            Route("/api/runs/{run}", self.document),
            Route("/api/runs/{run}/live", self.live),
            Route("/api/compare", self.compare),
            Route("/metrics", self.metrics),
            Route("/static/{name}", self.static),
        ]

    async def read(self, what: Callable[[], Json | None]) -> Prepared | None:
        """Has the reading thread make an answer; None where there is nothing."""

        def work() -> Prepared | None:
            content = what()
            return prepare_json(content) if content is not None else None

        self.asked_s = time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    def _shell(self, name: str, *, of_run: bool = False) -> Callable[[Request], Awaitable[Response]]:
        head, text = ((resources.files(__package__) / "static" / one).read_text(encoding="utf-8") for one in ("head.html", name))
        text = text.replace("<!-- head.html -->\n", head)

        async def answer(request: Request) -> Response:
            if of_run and self.catalogue.find(request.path_params["run"]) is None:
                raise HTTPException(404)
            return Response(text, media_type="text/html")

        return answer

    async def list(self, request: Request) -> Response:
        """All runs."""
        return _found(await self.read(self.catalogue.rows)).answer(request)

    async def live(self, request: Request) -> Response:
        """Where a run stands."""
        run = request.path_params["run"]

        def work() -> Json | None:
            row, tally, directory = self.catalogue.row(run), self.catalogue.tally(run), self.catalogue.find(run)
            if row is None or tally is None or directory is None:
                return None
            files = [{"name": one.name, "bytes": one.bytes} for one in artefacts(directory.path)]
            return {"row": row, "agents": live(tally), "files": files}

        return _found(await self.read(work)).answer(request)

    async def document(self, request: Request) -> Response:
        """A run as its report has it."""
        run = request.path_params["run"]
        self.asked_s = time.monotonic()
        found = await asyncio.get_running_loop().run_in_executor(self._writer, lambda: self.documents.of(run))
        return _found(found).answer(request)

    async def compare(self, request: Request) -> Response:
        """Two sides of runs."""
        sides = [request.query_params.getlist(name) for name in ("base", "new")]
        if self._comparing >= WAITING:
            return JSONResponse({"problem": "Others are comparing runs. Try again in a moment."}, 503, {"Retry-After": "2"})
        self._comparing += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._comparer, lambda: prepare_json(self.comparisons.of(*sides)))
        finally:
            self._comparing -= 1
        return found.answer(request)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        accept = request.headers.get("accept", "")
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._reader, lambda: metrics.expose(self.catalogue, accept))
        return Response(found.body, headers={"Content-Type": found.content_type})

    async def static(self, request: Request) -> Response:
        """Scripts and styles."""
        found = self._static.get(request.path_params["name"])
        return _found(found).answer(request)

    def file(self, request: Request) -> Response:
        """A file of a run, as long as it is now."""
        directory, name = self.catalogue.find(request.path_params["run"]), request.path_params["name"]
        opened = open_artefact(directory.path, name) if directory is not None else None
        if opened is None:
            raise HTTPException(404)
        fd, size = opened
        headers = {"Content-Length": str(size), "Content-Security-Policy": SANDBOX}
        if request.method == "HEAD":
            os.close(fd)
            return Response(headers=headers, media_type=content_type(name))
        return StreamingResponse(_chunks(os.fdopen(fd, "rb"), size), headers=headers, media_type=content_type(name))


def _static() -> dict[str, Prepared]:
    """Our own scripts and styles, and those of reports."""
    own = [file for file in (resources.files(__package__) / "static").iterdir() if Path(file.name).suffix in STATIC]
    texts = {file.name: file.read_text(encoding="utf-8") for file in own}
    texts |= {name: report.source(name) for name in OF_REPORTS}
    texts["report.js"] = "\n".join(report.source(name) for name in report.SCRIPTS)
    return {name: prepare(text.encode(), STATIC[Path(name).suffix]) for name, text in texts.items()}


def _chunks(file: BufferedReader, size: int) -> Iterator[bytes]:
    with file:
        while size > 0 and (data := file.read(min(CHUNK_BYTES, size))):
            size -= len(data)
            yield data


def _found(answer: Prepared | None) -> Prepared:
    if answer is None:
        raise HTTPException(404)
    return answer


async def _refused(request: Request, error: Exception) -> Response:
    """404 and the like, for programs as JSON."""
    assert isinstance(error, HTTPException)
    text = "There is no such run or page." if error.status_code == 404 else error.detail
    if request.url.path.startswith("/api/"):
        return JSONResponse({"problem": text}, error.status_code)
    return PlainTextResponse(text + "\n", error.status_code)


async def _broken(_: Request, error: Exception) -> Response:
    """A run directory that cannot be read."""
    text = str(error) if isinstance(error, Sai3sshError) else f"{type(error).__name__}: {error}"
    return JSONResponse({"problem": text}, 422)


def make_app(page: Page) -> Starlette:
    """The app without its guard."""
    return Starlette(routes=page.routes(), exception_handlers={HTTPException: _refused, **dict.fromkeys(BROKEN, _broken)})

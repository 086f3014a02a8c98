"""``gen-jax serve``: one warm model behind HTTP, for whoever draws a picture now and then."""

import base64
import io
import json
import signal
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np

from gen_jax.errors import GenJaxError
from gen_jax.files import film_bytes, npz_bytes, png_bytes
from gen_jax.launch.door import Run
from gen_jax.pictures import film, grid

__all__ = ["Limits", "make_server", "serve"]

_LARGEST = 1 << 20  # bytes of a request
_FORMATS = {"png": "image/png", "gif": "image/gif", "npz": "application/zip", "json": ""}
_FRAME_MS = 120


class Limits(NamedTuple):
    """What a request may ask for, and how many may wait."""

    samples: int = 64
    waiting: int = 8
    batch_size: int = 16


class _AskedError(Exception):
    """A request that cannot be answered, and why."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class Server(ThreadingHTTPServer):
    """A server of one model: one request is drawn at a time, and a few may wait."""

    daemon_threads = False  # what is being drawn is still sent at the end
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], run: Run, limits: Limits) -> None:
        super().__init__(address, _Handler)
        self.run, self.limits = run, limits
        self.drawing = threading.Lock()
        self.places = threading.BoundedSemaphore(limits.waiting)
        self.drawn = 0


def make_server(run: Run, host: str, port: int, limits: Limits | None = None) -> Server:
    """Bind a server, which ``serve_forever`` then runs; port 0 takes a free one.

    Raises:
        OSError: if the address is taken.
    """
    return Server((host, port), run, limits or Limits())


def serve(run: Run, host: str, port: int, limits: Limits) -> None:
    """Answer requests until SIGTERM or SIGINT; what is being drawn is still sent.

    Args:
        run: the model.
        host: address to listen at; others than this machine reach only what is not 127.0.0.1.
        port: 0 for a free one.
        limits: of requests.
    """
    server = make_server(run, host, port, limits)
    start = time.perf_counter()
    print(f"{run!r}: compiling ...", flush=True)
    if not _needs_more(run):
        run.sample(1, batch_size=limits.batch_size)
    took = time.perf_counter() - start
    place, number = server.server_address[:2]
    print(f"ready after {took:.1f} s: http://{place!s}:{number}  (Ctrl-C ends)", flush=True)

    def end(signum: int, frame: Any) -> None:
        del frame
        print(f"{signal.Signals(signum).name}: ending", flush=True)
        threading.Thread(target=server.shutdown).start()

    for number_of in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number_of, end)
    with server:
        server.serve_forever(poll_interval=0.2)
    print(f"{server.drawn} samples drawn", flush=True)


def _needs_more(run: Run) -> bool:
    """Return whether a sample needs more than a seed, which is not here before a request."""
    return any(given.needed and given.kind != "label" for given in run.inputs.values())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: Server

    def do_GET(self) -> None:
        """Answer ``/``, a page to try the model, and ``/health``, what it is."""
        if self.path == "/":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", _page(self.server).encode())
        elif self.path == "/health":
            self._send_json(HTTPStatus.OK, _health(self.server))
        else:
            self._fail(HTTPStatus.NOT_FOUND, "GET / and /health and POST /sample are there")

    def do_POST(self) -> None:
        """Answer ``/sample``: JSON in, a picture or JSON out."""
        try:
            asked = self._read()
            kind = asked.pop("format", "png")
            if kind not in _FORMATS:
                words = f"format: got {kind!r}; one of {', '.join(_FORMATS)} is required"
                raise _AskedError(HTTPStatus.BAD_REQUEST, words)
            images = self._draw(asked)
        except _AskedError as error:
            self._fail(error.status, str(error))
        except GenJaxError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, words.splitlines()[0])
        else:
            self._answer(kind, images)

    def _read(self) -> dict[str, Any]:
        if self.path != "/sample":
            raise _AskedError(HTTPStatus.NOT_FOUND, "POST /sample is there")
        # A page of another site may post forms, but not this without asking first.
        if not self.headers.get("Content-Type", "").startswith("application/json"):
            words = "Content-Type: application/json is required"
            raise _AskedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, words)
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _LARGEST:
            self._skip(int(length) if length.isdigit() else 0)
            words = f"Content-Length: got {length or 'none'}; at most {_LARGEST} is required"
            raise _AskedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words)
        try:
            asked = json.loads(self.rfile.read(int(length)) or b"{}")
        except ValueError as error:
            raise _AskedError(HTTPStatus.BAD_REQUEST, f"not JSON: {error}") from error
        if not isinstance(asked, dict):
            raise _AskedError(HTTPStatus.BAD_REQUEST, "an object is required")
        return asked

    def _skip(self, length: int) -> None:
        """Read what is too much and forget it: who is cut off while sending hears no answer."""
        left = min(length, 64 * _LARGEST)
        while left > 0 and (block := self.rfile.read(min(left, 1 << 16))):
            left -= len(block)

    def _draw(self, asked: dict[str, Any]) -> np.ndarray:
        server = self.server
        num, seed = asked.pop("num", 16), asked.pop("seed", 0)
        if not isinstance(num, int) or not 1 <= num <= server.limits.samples:
            words = f"num: got {num!r}; a whole number from 1 to {server.limits.samples}"
            raise _AskedError(HTTPStatus.BAD_REQUEST, words)
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            words = f"seed: got {seed!r}; a whole number from 0 to 2^32 - 1"
            raise _AskedError(HTTPStatus.BAD_REQUEST, words)
        # Images and masks come as nested lists.
        told = {
            name: np.asarray(value, _kind(server.run, name)) if isinstance(value, list) else value
            for name, value in asked.items()
        }
        if not server.places.acquire(blocking=False):
            words = f"{server.limits.waiting} requests wait already; try again"
            raise _AskedError(HTTPStatus.SERVICE_UNAVAILABLE, words)
        try:
            with server.drawing:
                size = server.limits.batch_size
                made = server.run.sample(num, seed=seed, batch_size=size, **told)
                server.drawn += num
        finally:
            server.places.release()
        return made

    def _answer(self, kind: str, images: np.ndarray) -> None:
        if kind == "json":
            data = base64.b64encode(np.ascontiguousarray(images).tobytes()).decode()
            shape = {"shape": list(images.shape), "dtype": str(images.dtype), "data": data}
            self._send_json(HTTPStatus.OK, shape)
        elif kind == "npz":
            self._send(HTTPStatus.OK, _FORMATS[kind], npz_bytes({"images": images}))
        elif images.ndim == 5 or kind == "gif":
            films = images if images.ndim == 5 else images[:, None]
            self._send(HTTPStatus.OK, _FORMATS["gif"], film_bytes(film(films), _FRAME_MS))
        else:
            self._send(HTTPStatus.OK, _FORMATS["png"], png_bytes(grid(images)))

    def _send_json(self, status: HTTPStatus, what: Mapping[str, Any]) -> None:
        self._send(status, "application/json", (json.dumps(what) + "\n").encode())

    def _fail(self, status: HTTPStatus, words: str) -> None:
        self.close_connection = True  # what was not read of a request is no next one
        self._send_json(status, {"error": words})

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say in one line who asked for what."""
        print(f"{self.address_string()} {format % arguments}", flush=True)


def _kind(run: Run, name: str) -> Any:
    given = run.inputs.get(name)
    if given is None or given.kind in ("label", "tokens"):
        return None
    return np.uint8 if given.kind == "image" else np.float32


def _health(server: Server) -> dict[str, Any]:
    run = server.run
    return {
        "model": run.family,
        "step": run.step,
        "shape": list(run.shape),
        "weights": run.trained.digest,
        "told": {name: given.help or given.kind for name, given in run.inputs.items()},
        "options": {
            name: {"default": option.default, "accepts": option.accepts, "help": option.help}
            for name, option in run.options.items()
        },
        "limits": server.limits._asdict(),
        "drawn": server.drawn,
    }


def _page(server: Server) -> str:
    """Write a page that asks for samples by the same requests as everybody."""
    run, out = server.run, io.StringIO()
    fields = [name for name, given in run.inputs.items() if given.kind in ("label", "tokens")]
    fields += [name for name in ("steps", "guidance") if name in run.options]
    for name in fields:
        out.write(f'<label>{name} <input name="{name}"></label> ')
    return f"""<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1"><link rel=icon href="data:,">
<title>{run.family}</title><style>body{{font:15px/1.6 system-ui;margin:24px auto;max-width:760px;
padding:0 12px;color-scheme:light dark}}img{{image-rendering:pixelated;max-width:100%}}</style>
<h1>{run.family}, step {run.step:,}</h1><form><label>num <input name=num value=16></label>
<label>seed <input name=seed value=0></label> {out.getvalue()}<button>Draw</button></form>
<p id=said></p><img id=made alt=""><script>
document.forms[0].onsubmit=async e=>{{e.preventDefault();const asked={{}};
for(const [k,v] of new FormData(e.target))if(v!=='')asked[k]=isNaN(v)?v:Number(v);
said.textContent='drawing ...';const r=await fetch('/sample',{{method:'POST',
headers:{{'Content-Type':'application/json'}},body:JSON.stringify(asked)}});
if(r.ok){{made.src=URL.createObjectURL(await r.blob());said.textContent=''}}
else said.textContent=(await r.json()).error}}</script></html>
"""

"""A warm model behind HTTP, asked by a real client."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

import gen_jax
from gen_jax.launch.cli.main import main
from gen_jax.launch.serve import Limits, make_server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("serve") / "ddpm"
    overrides = {"model.num_classes": 10}
    return gen_jax.train("ddpm_digits:tiny", workdir=place, overrides=overrides)


@pytest.fixture(scope="module")
def server(run):
    server = make_server(run, "127.0.0.1", 0, Limits(samples=8, waiting=1, batch_size=8))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def ask(server, path="/sample", body=None, kind="application/json"):
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Content-Type": kind} if data is not None else {}
    address = f"http://127.0.0.1:{server.server_address[1]}{path}"
    asked = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_samples_come_as_they_are_from_python(server, run):
    wanted = run.sample(4, seed=3, label=2, steps=2, batch_size=8)
    request = {"num": 4, "seed": 3, "label": 2, "steps": 2}
    status, kind, body = ask(server, body={**request, "format": "json"})
    assert (status, kind) == (200, "application/json")
    told = json.loads(body)
    made = np.frombuffer(base64.b64decode(told["data"]), told["dtype"]).reshape(told["shape"])
    np.testing.assert_array_equal(made, wanted)
    status, kind, body = ask(server, body={**request, "format": "npz"})
    np.testing.assert_array_equal(np.load(io.BytesIO(body))["images"], wanted)
    status, kind, body = ask(server, body=request)
    assert (status, kind) == (200, "image/png")
    with Image.open(io.BytesIO(body)) as picture:
        assert picture.size == Image.fromarray(np.asarray(gen_jax.show(wanted))).size
    status, _, body = ask(server, "/health")
    health = json.loads(body)
    assert health["model"] == "diffusion"
    assert health["drawn"] >= 12
    assert "steps" in health["options"]
    status, kind, body = ask(server, "/")
    assert b"/sample" in body
    assert kind.startswith("text/html")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"num": 9}, 400, "num: got 9"),
        ({"num": 2, "seed": -1}, 400, "seed: got -1"),
        ({"num": 2, "label": 99}, 400, "label: got 99"),
        ({"num": 2, "stepps": 3}, 400, "did you mean 'steps'"),
        ({"format": "bmp"}, 400, "format: got 'bmp'"),
        (b"{", 400, "not JSON"),
        (b"[1]", 400, "an object is required"),
        (b"x" * ((1 << 20) + 1), 413, "Content-Length"),
    ],
)
def test_what_cannot_be_is_refused_in_words(server, body, status, words):
    got, kind, said = ask(server, body=body)
    assert (got, kind) == (status, "application/json")
    assert words in json.loads(said)["error"]


def test_forms_of_other_pages_and_other_places_are_refused(server):
    assert ask(server, body=b"num=3", kind="application/x-www-form-urlencoded")[0] == 415
    assert ask(server, "/etc/passwd")[0] == 404
    assert ask(server, "/other", body={})[0] == 404


def test_of_too_many_requests_some_are_told_to_try_again(server):
    request = {"num": 1, "steps": 2, "label": 1}
    with server.drawing:  # somebody draws
        first = threading.Thread(target=ask, args=(server,), kwargs={"body": request})
        first.start()
        for _ in range(200):
            if server.places._value == 0:
                break
            threading.Event().wait(0.02)
        status, _, said = ask(server, body=request)
    first.join(60)
    assert status == 503
    assert "try again" in json.loads(said)["error"]
    assert ask(server, body=request)[0] == 200


@pytest.mark.nightly  # a process of its own
def test_a_signal_ends_it_in_peace(run):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    line = [sys.executable, "-m", "gen_jax", "serve", "--workdir", str(run.workdir)]
    process = subprocess.Popen(
        [*line, f"--port={port}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = ""
    while "ready" not in said:
        text = process.stdout.readline()
        assert text, said
        said += text
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "SIGTERM: ending" in out


def test_a_program_samples_where_gen_jax_is_not(run, tmp_path, capsys):
    out = tmp_path / "digits.stablehlo"
    line = ["export", "--workdir", str(run.workdir), "--format=stablehlo", "--to", str(out)]
    assert main([*line, "--num=4", "--steps=2"]) == 0
    assert "told label int32 [4]" in capsys.readouterr().out
    program = """
import sys
import numpy as np
from jax import export

program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = program.call(np.uint32(5), {"label": np.array([1, 2, 3, 4], np.int32)})
np.save(sys.argv[2], images)
assert not [name for name in sys.modules if name.startswith("gen_jax")]
"""
    made = tmp_path / "images.npy"
    command = [sys.executable, "-c", program, str(out), str(made)]
    subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    wanted = run.sample(4, seed=5, label=[1, 2, 3, 4], steps=2)
    assert np.abs(np.load(made).astype(int) - wanted).max() <= 1
    assert main([*line, "--stepps=2"]) == 2
    assert main(["export", "--workdir", str(run.workdir), "--to", "x", "--steps=2"]) == 2
    assert "go with --format stablehlo" in capsys.readouterr().err

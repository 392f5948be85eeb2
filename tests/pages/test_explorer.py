"""The explorer: its numbers are those of the library, and only its own page may ask for them."""

import contextlib
import http.client
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest
from typer.testing import CliRunner

import linflow as lf
from linflow.cli import app
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.views import VIEWS, depth, descent, least_norm, two_layers, two_weights
from tests.pages.conftest import STATES

TWO, LAYERS = STATES["two_weights"], STATES["two_layers"]


# --- views -----------------------------------------------------------------------------------------------


def start_of(state):
    f = lf.MatrixFactorization([[state["s"]]])
    return f, [np.array([[state["u"]]]), np.array([[state["v"]]])]


def test_the_proof_of_two_weights():
    view = two_weights(Given(TWO))
    low, high = lf.enclose(*start_of(TWO), until=1e-6).time_bounds(1e-6)
    assert view.numbers == {"proved from": low, "proved by": high} and f"{high:.6g}" in view.words
    assert two_weights(Given({"u": 0.5, "v": 2.0, "s": 1.0})).words == "The start is optimal."
    assert "No proof" in two_weights(Given({"u": 1.0, "v": -1.0, "s": 1.0})).words


def test_two_layers():
    view = two_layers(Given(LAYERS))
    f = lf.MatrixFactorization(np.diag(LAYERS["targets"]))
    net = lf.init.with_imbalance(np.diag(LAYERS["eigenvalues"]), 0.6 * np.diag(LAYERS["targets"]))
    cert, run = lf.certify(f, net), lf.gradient_flow(f, net, until=1e-7)
    assert view.numbers["guaranteed rate"] == cert.rate > 0
    assert view.numbers["guaranteed by"] == cert.time_to(1e-6)
    assert view.numbers["seen at"] == pytest.approx(run.time_to(1e-6), rel=1e-12)
    assert view.numbers["best bound on it"] == pytest.approx(float(lf.bounds.best(net).value), rel=1e-12)
    assert view.numbers["least eigenvalue of T"] >= view.numbers["best bound on it"]
    t, gap = view.curves["guarantee"][7]
    assert gap == pytest.approx(cert.gap_at(t) / cert.gap)
    assert all(a[1] <= b[1] * (1 + 1e-9) for a, b in zip(view.curves["loss"], view.curves["guarantee"], strict=True))
    assert cert.best is not None and cert.best.name in view.words


def test_the_plane_of_starts_has_the_rates_of_the_theorem():
    rates = np.array(two_layers(Given(LAYERS)).curves["plane"])
    D, W = np.array(LAYERS["eigenvalues"]), np.diag(LAYERS["targets"])
    for i, k in ((16, 16), (8, 15), (4, 0)):
        factor, part = 2 * i / 16, k / 16
        margin = max(0.0, 0.5 - (1 - part) * np.linalg.norm(W))
        assert rates[i, k] == pytest.approx(2 * float(lf.bounds.two_layer(factor * D, 2, 2, margin, margin)))
    wide = np.array(two_layers(Given({**LAYERS, "m": 3, "eigenvalues": [2.0, 0.5, 0, 0, -1.0]})).curves["plane"])
    known = lf.bounds.two_layer(np.array([4.0, 1.0, 0, 0, -2.0]), 2, 3, 0.5, 0.0)
    assert wide[16, 16] == pytest.approx(2 * float(known))


@pytest.mark.parametrize("step", [0.05, 0.3, 1.0])
def test_descent(step):
    view = descent(Given({**TWO, "step": step}))
    f, net = start_of(TWO)
    with np.errstate(all="ignore"):
        run = lf.gradient_descent(f, net, step_size=step, steps=300, until=1e-6)
    below = run.gap <= 1e-6 * run.gap[0]
    assert view.numbers["steps taken"] == (int(np.argmax(below)) if below.any() else None)
    assert view.numbers["certified step"] == float(lf.safe_step_size(f, net))
    k, loss = view.curves["losses"][3]
    assert k == 3 and loss == pytest.approx(float(run.loss[3] / run.loss[0]), rel=1e-9)
    edge = view.numbers["edge of stability"]
    end = lf.gradient_flow(f, net, until=1e-13).final
    T = lf.TangentOperator(end).dense()
    assert edge == pytest.approx(2 / T[0, 0], rel=1e-5)
    assert (view.numbers["steps proved"] is None) == (step > edge)
    assert ("The proof ends" in view.words) == (step > edge)


@pytest.mark.parametrize("name", STATES)
def test_the_lines_of_python_run(name, monkeypatch):
    code = VIEWS[name](Given(STATES[name])).code
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert any(word in printed.getvalue() for word in ("rate", "target proved", "distance="))


def test_depth():
    view = depth(Given(STATES["depth"]))
    w, s = STATES["depth"]["layers"], STATES["depth"]["s"]
    f, net = lf.MatrixFactorization([[s]]), [np.array([[x]]) for x in w]
    cert = lf.certify(f, net)
    assert view.numbers["guaranteed rate"] == cert.rate > 0
    assert view.numbers["guaranteed by"] == cert.time_to(1e-6) and f"{cert.time_to(1e-6):.6g}" in view.words
    d = [a * a - b * b for a, b in itertools.pairwise(w)]
    assert view.numbers["exact rate at the margin"] == lf.bounds.scalar_exact(d, lf.margin(f, net))
    assert depth(Given({"layers": [2.0, 0.5], "s": 1.0})).words == "The start is optimal."
    assert depth(Given({"layers": [1.0, 1.0], "s": -1.0})).words == "Nothing is guaranteed before the run."


def test_least_norm():
    state = STATES["least_norm"]
    view, x = least_norm(Given(state)), np.array([state["x1"], state["x2"]])
    f = lf.LinearRegression(x[None], [[state["target"]]])
    net = lf.init.gaussian((2, 50, 1), 50**-0.5, rng=0)
    run = lf.gradient_flow(f, net, until=1e-9)
    found = lf.least_norm_distance(f, run)
    assert [view.numbers[name] for name in ("distance", "bound", "mixing", "exposure")] == [
        found.distance, found.bound, found.mixing, found.exposure,
    ]  # fmt: skip
    assert 0 < found.distance <= found.bound and f"{found.bound:.4g}" in view.words
    least = np.linalg.pinv(x[None]) @ [state["target"]]
    assert view.curves["solution"][0] == pytest.approx(least.tolist())
    assert np.linalg.norm(np.array(view.curves["path"][-1]) - least) == pytest.approx(found.distance, rel=1e-9)
    assert view.curves["path"][0] == pytest.approx(np.asarray(net.product())[:, 0].tolist(), rel=1e-9)
    with pytest.raises(ValueError, match=r"length 0\.1; 0\.2 or more"):
        least_norm(Given({**state, "x1": 0.1, "x2": 0.0}))


def test_weights_that_do_not_exist_are_explained():
    with pytest.raises(ValueError, match="3 positive eigenvalues"):
        two_layers(Given({**LAYERS, "eigenvalues": [1.0, 1.0, 1.0]}))


def test_every_view_answers_anywhere_within_its_limits():
    rng = np.random.default_rng(0)
    for _ in range(60):
        u, v, s = (float(x) for x in rng.choice([0.0, 1.0, -1.0, 2.5, 1e-3, 0.7], 3))
        given = {"u": u, "v": v, "s": s, "step": float(rng.choice([1e-3, 0.5, 2.0]))}
        for view in (two_weights, descent):
            json.dumps(view(Given(given)).document(), allow_nan=False)
        n, m = (int(x) for x in rng.integers(1, 4, 2))
        plus, minus = int(rng.integers(0, n + 1)), int(rng.integers(0, m + 1))
        values = [*[2.0] * plus, *[-1.0] * minus, *[0.0] * max(1, min(n, m) - plus - minus)]
        state = {"n": n, "m": m, "eigenvalues": values, "part": float(rng.choice([-1.0, 0.0, 1.0, 2.0]))}
        state["targets"] = [float(x) for x in rng.choice([0.0, 1.0, 5.0], min(n, m))]
        with contextlib.suppress(ValueError):  # such weights may not exist
            json.dumps(two_layers(Given(state)).document(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"u": 1e9}, "u is 1e"),
        ({"u": "1"}, "u is str"),
        ({"u": None}, "u is NoneType"),
        ({"u": True}, "u is 1"),
        ({"u": float("nan")}, "u is nan"),
        ({"n": 2.5}, "n is 2.5; a whole number"),
        ({"n": 7}, "n is 7"),
        ({"eigenvalues": [1.0] * 13}, "eigenvalues must be a list of 1 to 12"),
        ({"eigenvalues": "abc"}, "eigenvalues must be"),
        ({"targets": [1.0]}, "targets must be a list of 2 to 2"),
    ],
)
def test_what_is_outside_the_limits_is_named(change, words):
    view = two_weights if "u" in change else two_layers
    with pytest.raises(ValueError, match=re.escape(words)):
        view(Given({**TWO, **LAYERS, **change}))


# --- the server ------------------------------------------------------------------------------------------


@pytest.fixture
def linflow(tmp_path, monkeypatch):
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def ask(explorer, path, body=None, headers=None, method=None):
    port = urllib.parse.urlparse(explorer.url).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    kinds = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method or ("POST" if body is not None else "GET"), path, sent, {**kinds, **(headers or {})})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply, content


def test_it_listens_on_this_machine_alone(explorer):
    assert explorer.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("name", STATES)
def test_answers_are_those_of_the_views(explorer, name):
    reply, content = ask(explorer, f"/{name}", STATES[name])
    assert reply.status == 200 and json.loads(content) == VIEWS[name](Given(STATES[name])).document()
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]


@pytest.mark.parametrize("name", STATES)
def test_figures(explorer, name):
    for kind, begin in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        reply, content = ask(explorer, f"/{name}.{kind}", STATES[name])
        assert reply.status == 200 and content.startswith(begin)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/", None, {"Host": "evil.example"}, 403),
        ("/", None, {"Origin": "http://evil.example"}, 403),
        ("/", None, {"Origin": "null"}, 403),
        ("/two_weights", TWO, {"Origin": "https://127.0.0.1"}, 403),
        ("/two_weights", TWO, {"Content-Type": "text/plain"}, 400),
        ("/two_weights", b"[1, 2]", {}, 400),
        ("/two_weights", b"{", {}, 400),
        ("/two_weights", b"[" * 19_000, {}, 400),
        ("/two_weights", b'{"u": 1' + b" " * 20_000, {}, 413),
        ("/two_weights", b"{}", {"Content-Length": "99999999999999999999"}, 413),
        ("/two_weights", b"{}", {"Content-Length": "-1"}, 400),
        ("/two_weights", {"u": 1e9}, {}, 422),
        ("/two_weights", b'{"u": NaN, "v": 1, "s": 1}', {}, 422),
        ("/etc/passwd", None, {}, 404),
        ("/../secret", TWO, {}, 404),
        ("/two_weights.exe", TWO, {}, 404),
    ],
)
def test_what_is_refused_says_why(explorer, path, body, headers, status):
    reply, content = ask(explorer, path, body, headers)
    assert reply.status == status and json.loads(content)["error"]
    assert ask(explorer, "/two_weights", TWO)[0].status == 200  # and it goes on


def test_other_methods_are_refused(explorer):
    assert ask(explorer, "/two_weights", b"{}", method="PUT")[0].status == 501


@pytest.mark.slow
def test_ten_clients_at_once(explorer):
    answers = []

    def client(k):
        state = {**TWO, "u": 1 + k / 10}
        for kind in ("", ".svg"):
            reply, content = ask(explorer, f"/two_weights{kind}", state)
            answers.append((k, kind, reply.status, content))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20 and all(status == 200 for _, _, status, _ in answers)
    for k, kind, _, content in answers:
        if not kind:
            assert json.loads(content) == two_weights(Given({**TWO, "u": 1 + k / 10})).document()


def test_the_command_starts_ends_and_starts_again(tmp_path):
    before = set(os.listdir(tmp_path))
    port = "0"
    for end in (signal.SIGKILL, signal.SIGINT, signal.SIGINT):
        # As on a terminal: a suite started in the background hands its children an ignored Ctrl-C.
        heard = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        heard += "runpy.run_module('linflow', run_name='__main__')"
        command = [sys.executable, "-c", heard, "explore", "--no-browser", "--port", port]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        assert process.stdout is not None
        url = urllib.parse.urlparse(process.stdout.readline().split()[0])
        connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=60)
        connection.request("GET", "/")
        assert b"Drag a start" in connection.getresponse().read()
        connection.close()
        process.send_signal(end)
        assert process.wait(60) == (0 if end == signal.SIGINT else -signal.SIGKILL)
        process.stdout.close()
        port = str(url.port)
    assert set(os.listdir(tmp_path)) == before


def test_the_page_without_a_server_is_written_and_nobodys_file_is_replaced(linflow, tmp_path):
    assert linflow("explore", "--page", "play.html").exit_code == 0
    assert "Drag a start" in (tmp_path / "play.html").read_text()
    assert linflow("explore", "--page", "play.html").exit_code == 0
    (tmp_path / "mine.html").write_text("mine")
    found = linflow("explore", "--page", "mine.html")
    assert found.exit_code == 2 and (tmp_path / "mine.html").read_text() == "mine"


def test_a_port_that_is_taken_is_one_line(linflow, explorer):
    found = linflow("explore", "--no-browser", "--port", str(explorer.server.server_address[1]))
    assert found.exit_code == 2 and "Traceback" not in found.output

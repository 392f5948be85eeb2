"""What is saved comes back to the last bit, and is readable without the library."""

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest

import linflow as lf
from linflow import files
from linflow._support.arrays import to_numpy
from linflow.dynamics import Stats
from linflow.dynamics.storage import schema as _schema

RECORD = ("loss", "rate", "least_eigenvalue", "imbalance_drift", "tangent_change", "singular_values")


def flow(widths=(3, 5, 2), **options):
    f = lf.MatrixFactorization(np.ones((widths[0], widths[-1])))
    options = {"until": 1e-4, "engine": "plain", **options}
    return lf.gradient_flow(f, lf.init.ntk(widths, rng=1), **options)


def descent(step=0.05, steps=30, **options):
    f = lf.MatrixFactorization(np.eye(3))
    return lf.gradient_descent(f, lf.init.gaussian((3, 4, 3), 0.5, rng=2), step_size=step, steps=steps, **options)


RUNS = {
    "flow": flow,
    "flow with records": lambda: flow(record=RECORD, times=[0.1, 0.2]),
    "flow, reduced width": lambda: flow((2, 300, 2)),
    "one layer": lambda: flow((3, 2)),
    "1×1": lambda: flow((1, 1, 1)),
    "deep": lambda: flow((2, 3, 4, 3, 1), t_max=1.0, until=None),
    "no step: a saddle": lambda: lf.gradient_flow(
        lf.MatrixFactorization(np.eye(2)), [np.zeros((2, 2))] * 2, t_max=1.0
    ),
    "no step: a minimum": lambda: lf.gradient_descent(
        lf.MatrixFactorization(np.eye(2)), [np.eye(2)] * 2, step_size=0.1, steps=3
    ),
    "to rounding": lambda: flow(until=None, t_max=1e3),
    "descent": descent,
    "descent with records": lambda: descent(record=RECORD, every=7),
    "descent, schedule": lambda: lf.gradient_descent(
        lf.MatrixFactorization(np.eye(3)),
        lf.init.gaussian((3, 4, 3), 0.5, rng=2),
        schedule=lf.schedules.backtracking(),
        steps=5,
    ),
    "descent that diverges": lambda: descent(3.0, 400, record=RECORD),
}


@pytest.fixture(params=list(RUNS), ids=list(RUNS))
def run(request):
    return made(request.param)


@functools.cache
def made(name):
    return RUNS[name]()


def same(a, b):
    """Whether two values are the same to the last bit, NaN included."""
    if a is None or b is None:
        return a is b
    a, b = to_numpy(a), to_numpy(b)
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def same_network(a, b):
    return a.scale == b.scale and len(a.weights) == len(b.weights) and all(map(same, a.weights, b.weights))


def save(run, tmp_path, **options):
    path = tmp_path / "a run.nc"
    files.save_run(run, path, **options)
    return path


def test_a_run_comes_back_to_the_last_bit(run, tmp_path, rng):
    back = files.load_run(save(run, tmp_path))
    for name in ("t", "gap", "rate", "step_sizes", *RECORD[2:], "loss"):
        assert same(getattr(back, name), getattr(run, name)), name
    for name in ("minimum", "result", "notes", "algorithm", "step_size", "until", "optimizer"):
        assert getattr(back, name) == getattr(run, name), name
    for name in _schema.STATS:
        assert getattr(back.stats, name) == getattr(run.stats, name), name
        assert type(getattr(back.stats, name)) is type(getattr(run.stats, name)), name
    assert same_network(back.start, run.start) and same_network(back.final, run.final)
    assert len(back.nodes) == len(run.nodes) and all(map(same, back.nodes, run.nodes))
    if run.result is lf.Result.DIVERGED:
        return
    times = np.concatenate([rng.uniform(0, float(run.t[-1]), 50), run.t])
    assert same(back.gap_at(times), run.gap_at(times)) and back.gap_at(times[0]) == run.gap_at(times[0])
    assert back.time_to(0.3) == run.time_to(0.3)
    assert repr(back) == repr(run)


def test_saving_twice_is_saving_once(run, tmp_path):
    first = files.to_dataset(run)
    back = files.load_run(save(run, tmp_path))
    second = files.to_dataset(back)
    assert first.attrs["checksum"] == second.attrs["checksum"]
    assert first.identical(second.assign_attrs(created=first.attrs["created"]))


def test_every_quantity_of_a_run_is_covered():
    """Fails where a field is added to a run and not to its file."""
    stored = {"t", "gap", "rate", "minimum", "start", "final", "result", "stats", "notes", "algorithm"}
    stored |= {"step_size", "step_sizes", "least_eigenvalue", "imbalance_drift", "singular_values", "until"}
    stored |= {"tangent_change", "law_error", "optimizer"}
    stored |= {"nodes", "checkpoints"}
    assert {field.name for field in dataclasses.fields(lf.Trajectory)} == stored
    of_stats = {field.name for field in dataclasses.fields(Stats)} - {"_estimate"} | {"gap_error"}
    assert of_stats == set(_schema.STATS)


def test_the_weights_along_a_flow(tmp_path):
    """Those of the run itself at its stored steps; named times elsewhere."""
    for widths in ((3, 5, 2), (2, 300, 2)):  # the second is integrated in a lesser width
        run = flow(widths)
        back = files.load_run(save(run, tmp_path, weights="all"))
        times = run.checkpoints.times
        assert len(times) > 5
        for t in times:
            assert same_network(back.network_at(t), run.network_at(t))
        with pytest.raises(ValueError, match=f"weights at {len(times)} times and not at t = .*nearest is t = "):
            back.network_at(0.5 * (times[0] + times[1]))
        again = files.load_run(save(back, tmp_path, weights="all"))
        assert same_network(again.network_at(times[3]), run.network_at(times[3]))


def test_the_ends_of_a_flow_are_always_there(tmp_path):
    run = flow()
    back = files.load_run(save(run, tmp_path))
    assert same_network(back.network_at(0), run.start)
    assert same_network(back.network_at(float(run.t[-1])), run.final)
    with pytest.raises(ValueError, match='Save with weights="all"'):
        back.network_at(0.1)
    with pytest.raises(ValueError, match="covers t = 0 to"):
        back.network_at(1e9)
    with pytest.raises(ValueError, match="descent"):
        files.load_run(save(descent(), tmp_path)).network_at(0)
    with pytest.raises(ValueError, match='a descent keeps the first and the last weights only; leave it at "ends"'):
        save(descent(), tmp_path, weights="all")
    with pytest.raises(ValueError, match="weights is 'some'"):
        save(run, tmp_path, weights="some")


def test_a_thinned_flow_keeps_its_last_weights(tmp_path):
    run = flow()
    run.checkpoints.times, run.checkpoints.vectors = run.checkpoints.times[:-1:2], run.checkpoints.vectors[:-1:2]
    back = files.load_run(save(run, tmp_path, weights="all"))
    assert same_network(back.network_at(float(run.t[-1])), run.final)


def test_a_loaded_run_can_be_certified(tmp_path):
    f, net = lf.MatrixFactorization(np.eye(3)), lf.init.gaussian((3, 50, 3), 0.3, rng=0)
    run = lf.gradient_flow(f, net, until=1e-4, engine="plain")
    back = files.load_run(save(run, tmp_path))
    assert lf.certify(f, back.start).check(back) == lf.certify(f, net).check(run)


def test_other_kinds_of_arrays_come_back_as_numpy(tmp_path, xp):
    f = lf.MatrixFactorization(xp.asarray(np.eye(2)))
    run = lf.gradient_flow(f, lf.init.ntk((2, 3, 2), rng=0, like=xp.asarray(np.eye(2))), until=1e-2)
    back = files.load_run(save(run, tmp_path, weights="all"))
    assert type(back.t) is np.ndarray and type(back.final.weights[0]) is np.ndarray
    assert same(back.gap, run.gap) and same_network(back.final, run.final)
    files.save_weights(run.final, tmp_path / "w.safetensors")
    assert same_network(files.load_weights(tmp_path / "w.safetensors"), run.final)


def test_notes_and_settings_survive_any_text(tmp_path):
    notes = ("μ = ½ is contradicted\nat t = 1", "", 'quotes " and \\', "zero \0 byte", "lone \udc80 surrogate")
    run = dataclasses.replace(flow(), notes=notes)
    settings = {"seed": 7, "widths": [3, 5, 2], "ratio": 0.1, "name": "ω \udc80 \0", "none": None, "big": "x" * 10**6}
    path = save(run, tmp_path, settings=settings)
    assert files.load_run(path).notes == notes
    assert files.load_settings(path) == settings
    assert files.load_settings(save(run, tmp_path)) == {}
    path = save(run, tmp_path, settings={"a": np.float64(0.5), "b": np.arange(3), "c": (1, 2)})
    assert files.load_settings(path) == {"a": 0.5, "b": [0, 1, 2], "c": [1, 2]}


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"t_max": np.inf}, ValueError, "infinities and NaN as None"),
        ({"f": lf}, TypeError, "module is not serializable"),
        ({(1, 2): 3}, TypeError, "text keys"),
        ([1], TypeError, "settings is a list"),
    ],
)
def test_settings_that_json_lacks(tmp_path, settings, error, match):
    with pytest.raises(error, match=match):
        save(descent(), tmp_path, settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_readable_without_us(tmp_path):
    import h5py
    import xarray

    run = flow(record=RECORD)
    path = save(run, tmp_path, settings={"seed": 1}, weights="all")
    with xarray.open_dataset(path) as data:
        assert same(data.gap.values, run.gap) and data.gap.dims == ("t",) and same(data.t.values, run.t)
        assert same(data.W2_end.values, run.weights[1]) and data.W2_end.dims == ("h1", "h2")
        assert data.W1_path.dims == ("path", "h0", "h1")
        assert data.singular_values.dims == ("t", "mode")
        assert data.gap.attrs["units"] == "loss" and data.t.attrs["units"] == "time of the flow"
        assert data.rate.attrs["units"] == "1/time"
        for name in data.variables:
            assert data[name].attrs["long_name"] and data[name].attrs["units"], name
        # A run of another tolerance tells the error, the largest at any time; it is no sum over the steps.
        assert data.stats_gap_error.attrs["long_name"].endswith("the largest at any time")
        assert float(data.minimum) == run.minimum and int(data.stats_steps) == run.stats.steps
        assert float(data.stats_seconds) == run.stats.seconds  # not decoded as a duration
        assert data.attrs["format_version"] == 1 and data.attrs["result"] == "TARGET"
        assert data.attrs["dtype"] == "float64" and data.attrs["source"] == f"linflow {lf.__version__}"
        assert {"Conventions", "title", "created", "platform", "numpy_version"} <= set(data.attrs)
        assert json.loads(data.attrs["settings"]) == {"seed": 1}
    with h5py.File(path) as file:
        assert same(file["rate"][()], run.rate)


def test_a_run_rewritten_by_xarray_loads(tmp_path):
    """Compressed, in another byte order, with additions: the checksum is of the content."""
    import xarray

    run = flow()
    with xarray.open_dataset(save(run, tmp_path)) as opened:
        data = opened.load().assign(mine=("t", np.arange(len(run.t)))).assign_attrs(comment="added")
    encoding = {name: {"zlib": True, "chunksizes": (3,)} for name in ("gap", "rate")}
    for values in data.variables.values():
        values.encoding.clear()
    data["node_slope"] = data.node_slope.astype(">f8")
    data.to_netcdf(tmp_path / "again.nc", engine="h5netcdf", encoding=encoding)
    back = files.load_run(tmp_path / "again.nc")
    assert same(back.gap, run.gap) and all(map(same, back.nodes, run.nodes))


WIDTHS = [(1, 1), (1, 1, 1), (3, 50, 2), (4, 3, 2, 5), (2,) * 13]


@pytest.mark.parametrize("end", [".npz", ".safetensors"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_weights_come_back_to_the_last_bit(tmp_path, end, widths):
    net = lf.init.ntk(widths, rng=3)
    path = tmp_path / f"wéights {len(widths)}{end}"
    files.save_weights(net, path)
    back = files.load_weights(path)
    assert same_network(back, net) and back.notes == ()
    assert same_network(files.load(path), net)
    files.save_weights([W.T for W in net.weights[::-1]], path)  # views, and another order in memory
    assert same_network(files.load_weights(path), lf.Network([W.T for W in net.weights[::-1]]))


def test_weights_are_readable_without_us(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    net = lf.init.ntk((2, 7, 3), rng=3)
    files.save_weights(net, tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as archive:
        assert (
            set(archive) == {"W1", "W2", "scale"} and archive["scale"].shape == () and archive["scale"] == net.scale
        )
    files.save_weights(net, tmp_path / "w.safetensors")
    assert same(load_file(tmp_path / "w.safetensors")["W1"], net.weights[0])
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        assert float(file.metadata()["scale"]) == net.scale


def chain(*widths, rng):
    return [rng.standard_normal(shape) for shape in itertools.pairwise(widths)]


def test_layers_are_in_natural_order(tmp_path, rng):
    weights = chain(*range(2, 15), rng=rng)
    names = [f"W{l}" for l in range(1, 13)]
    np.savez(tmp_path / "w.npz", **dict(zip(names[::-1], weights[::-1], strict=True)))
    assert same_network(files.load_weights(tmp_path / "w.npz"), lf.Network(weights))


def written(folder, ends, weights):
    """Write the same named matrices as each kind of file."""
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.numpy").save_file
    paths = [folder / f"w.{end}" for end in ends]
    for path in paths:
        if path.suffix == ".npz":
            np.savez(path, **weights)
        elif path.suffix == ".safetensors":
            save({name: np.ascontiguousarray(W) for name, W in weights.items()}, path)
        else:
            torch.save({name: torch.asarray(W) for name, W in weights.items()}, path)
    return paths


WORDS = [
    ("up", "down"),
    ("layer_one", "layer_two", "layer_three"),
    ("fc1.weight", "head.weight"),
    ("W1", "V2"),
    ("W1", "W01"),
]


@pytest.mark.parametrize("names", WORDS)
def test_an_order_that_names_do_not_say_is_asked_for(tmp_path, rng, names):
    """Square layers chain in any order, so a wrong one would go unseen; where they do not, it is transposed."""
    weights = chain(*[3] * (len(names) + 1), rng=rng)
    for path in written(tmp_path, ("npz", "safetensors"), dict(zip(names, weights, strict=True))):
        with pytest.raises(files.FileError, match=rf"'{names[0]}' 3×3.*layers=\[.*--layers .*or the other way round"):
            files.load_weights(path)
        net = files.load_weights(path, layers=names, convention="product")
        assert same_network(net, lf.Network(weights)) and not net.notes
        backwards = files.load_weights(path, layers=names[::-1], convention="product")
        assert same_network(backwards, lf.Network(weights[::-1]))
    shapes = chain(2, 50, 3, rng=rng)
    (path,) = written(tmp_path, ("npz",), {"up": shapes[0], "down": shapes[1]})
    with pytest.raises(files.FileError, match=r"'up' 2×50, 'down' 50×3"):
        files.load_weights(path)  # 2×50×3, or 3×50×2 as nn.Linear stores them


@pytest.mark.parametrize("names", WORDS)
def test_a_file_of_pytorch_keeps_the_order_in_which_it_was_saved(tmp_path, rng, names):
    weights = chain(*[3] * (len(names) + 1), rng=rng)
    (path,) = written(tmp_path, ("pt",), dict(zip(names, weights, strict=True)))
    net = files.load_weights(path, convention="product")
    assert same_network(net, lf.Network(weights))
    assert net.notes[0] == f"the layers were taken in the order of the file: {', '.join(map(repr, names))}"
    assert same_network(files.load_weights(path, layers=names[::-1], convention="product"), lf.Network(weights[::-1]))


@pytest.mark.parametrize("end", ["npz", "safetensors", "pt"])
def test_numbers_decide_wherever_they_stand(tmp_path, rng, end):
    weights = chain(*range(2, 15), rng=rng)
    for name in ("layer{}_w", "{}", "blocks.{}.fc.weight", "net.{}.1.weight", "stack2.{}.weight"):
        stored = {name.format(l): W.T if "weight" in name else W for l, W in enumerate(weights)}
        (path,) = written(tmp_path, (end,), dict(reversed(stored.items())))
        assert same_network(files.load_weights(path), lf.Network(weights))
    pairs = {f"{a}.{b}.weight": W.T for (a, b), W in zip(((0, 0), (0, 2), (1, 0), (10, 1)), weights, strict=False)}
    (path,) = written(tmp_path, (end,), dict(reversed(pairs.items())))
    assert same_network(files.load_weights(path), lf.Network(weights[:4]))


def test_layers_that_are_named_leave_out_the_rest(tmp_path, rng):
    A, B, C = chain(3, 3, 3, 3, rng=rng)
    given = {"a.weight": A, "b.weight": B, "other.weight": C, "other.bias": np.ones(3), "b.bias": np.zeros(3)}
    np.savez(tmp_path / "w.npz", **given)
    net = files.load_weights(tmp_path / "w.npz", layers=["b.weight", "a.weight"])
    assert same_network(net, lf.Network([B.T, A.T]))
    assert net.notes[0] == "not among the layers, and left out: 'other.weight', 'other.bias'"
    for wrong in (["a.weight", "c.weight"], ["a.weight", "a.weight"], [], ["a.weight", "other.bias"]):
        with pytest.raises(files.FileError, match=r"of its matrices, each once, are needed: 'a\.weight'"):
            files.load_weights(tmp_path / "w.npz", layers=wrong)
    with pytest.raises(files.FileError, match="a bias that is not zero"):
        files.load_weights(tmp_path / "w.npz", layers=["other.weight", "a.weight"])
    with pytest.raises(TypeError, match="a list of the names"):
        files.load_weights(tmp_path / "w.npz", layers="a.weight")


def test_the_convention_of_torch(tmp_path, rng):
    """What nn.Linear computes is what the network computes, on rows."""
    torch = pytest.importorskip("torch")

    model = torch.nn.Sequential(
        torch.nn.Linear(2, 5, bias=False), torch.nn.Linear(5, 5, bias=False), torch.nn.Linear(5, 3, bias=False)
    ).double()
    X = rng.standard_normal((4, 2))
    expected = model(torch.asarray(X)).detach().numpy()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    torch.save({"epoch": 3, "model": model.state_dict()}, tmp_path / "checkpoint.pth")
    torch.save(list(model.parameters()), tmp_path / "list.pt")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    momenta = torch.optim.SGD(model.parameters()).state_dict()
    beside = {"epoch": 3, "loops": {}, "hyper_parameters": {"lr": 0.1}, "optimizer_states": [momenta]}
    torch.save({**beside, "state_dict": model.state_dict()}, tmp_path / "lightning.ckpt")
    save_file = pytest.importorskip("safetensors.torch").save_file

    save_file(model.state_dict(), tmp_path / "m.safetensors")
    for name in ("m.pt", "checkpoint.pth", "list.pt", "m.safetensors", "pytorch_model.bin", "lightning.ckpt"):
        net = files.load(tmp_path / name)
        assert net.widths == (2, 5, 5, 3)
        assert np.allclose(X @ net.product(), expected, rtol=1e-12, atol=1e-12)  # three products of order 1, rounded
        assert "nn.Linear, each transposed" in net.notes[-1]
    assert "entry 'model'" in files.load(tmp_path / "checkpoint.pth").notes[0]


def test_names_decide_where_shapes_do_not(tmp_path, rng):
    """Square layers fit both ways."""
    A, B = chain(3, 3, 3, rng=rng)
    np.savez(tmp_path / "w.npz", W1=A, W2=B)
    np.savez(tmp_path / "t.npz", **{"0.weight": A, "1.weight": B})
    product, torch = lf.Network([A, B]), lf.Network([A.T, B.T])
    assert same_network(files.load_weights(tmp_path / "w.npz"), product)
    assert same_network(files.load_weights(tmp_path / "t.npz"), torch)
    for name in ("w.npz", "t.npz"):
        assert same_network(files.load_weights(tmp_path / name, convention="product"), product)
        assert same_network(files.load_weights(tmp_path / name, convention="torch"), torch)


def test_shapes_decide_where_only_one_fits(tmp_path, rng):
    A, B = chain(2, 3, 4, rng=rng)
    np.savez(tmp_path / "w.npz", W1=A.T, W2=B.T)
    np.savez(tmp_path / "t.npz", **{"0.weight": A, "1.weight": B})
    for name in ("w.npz", "t.npz"):
        assert same_network(files.load_weights(tmp_path / name), lf.Network([A, B]))
    with pytest.raises(files.FileError, match="'W1' 3×2, 'W2' 4×3, which do not chain: the columns of each"):
        files.load_weights(tmp_path / "w.npz", convention="product")
    with pytest.raises(files.FileError, match=r"'0.weight' 2×3, .*as nn.Linear stores them"):
        files.load_weights(tmp_path / "t.npz", convention="torch")
    with pytest.raises(ValueError, match="convention is 'keras'"):
        files.load_weights(tmp_path / "t.npz", convention="keras")


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "int32"])
@pytest.mark.parametrize("end", ["npz", "safetensors", "pt"])
def test_smaller_numbers_are_promoted_exactly_and_noted(tmp_path, dtype, end):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file

    if (dtype, end) == ("bfloat16", "npz"):
        dtype = "int8"  # NumPy has no bfloat16
    x = torch.arange(-3, 3).reshape(2, 3).to(getattr(torch, dtype))
    x = x / 3 if x.is_floating_point() else x
    path = tmp_path / f"w.{end}"
    {"npz": lambda: np.savez(path, W1=x.numpy()), "pt": lambda: torch.save({"W1": x}, path)}.get(
        end, lambda: save_file({"W1": x}, path)
    )()
    net = files.load_weights(path)
    assert same(net.weights[0], x.double().numpy())
    assert net.notes == (f"the layers were promoted from {dtype} to float64",)


def test_biases_of_zero_are_no_biases(tmp_path):
    np.savez(tmp_path / "w.npz", **{"0.weight": np.ones((3, 2)), "0.bias": np.zeros(3)})
    assert files.load_weights(tmp_path / "w.npz").widths == (2, 3)


MATRIX = np.array([[1.5, -2e-300], [0.1, 3.0], [1 / 3, 1e300]])
TEXTS = {
    "comma": ("csv", "\n".join(f"{a!r},{b!r}" for a, b in MATRIX.tolist())),
    "semicolon": ("csv", "\n".join(f"{a!r};{b!r}" for a, b in MATRIX.tolist())),
    "tab": ("tsv", "\n".join(f"{a!r}\t{b!r}" for a, b in MATRIX.tolist())),
    "tab in csv": ("csv", "\n".join(f"{a!r}\t{b!r}" for a, b in MATRIX.tolist())),
    "blanks": ("csv", "\n".join(f"  {a!r}   {b!r} " for a, b in MATRIX.tolist())),
    "comma and blank": ("csv", "\n".join(f"{a!r}, {b!r}" for a, b in MATRIX.tolist())),
    "header": ("csv", "\n".join(["a,b", *(f"{a!r},{b!r}" for a, b in MATRIX.tolist())])),
    "quotes": ("csv", "\n".join(['"a, or so","b"', *(f'"{a!r}","{b!r}"' for a, b in MATRIX.tolist())])),
    "header, comments, empty lines": (
        "csv",
        "\n# by hand\n\na b\n\n" + "\n\n".join(f"{a!r} {b!r}" for a, b in MATRIX.tolist()),
    ),
    "Windows": ("csv", "\ufeffa;b\r\n" + "".join(f"{a!r};{b!r}\r\n" for a, b in MATRIX.tolist())),
}


@pytest.mark.parametrize("kind", list(TEXTS))
def test_a_matrix_from_text(tmp_path, kind):
    end, text = TEXTS[kind]
    path = tmp_path / f"m.{end}"
    path.write_bytes(text.encode())
    assert same(files.read_matrix(path), MATRIX)
    path.write_bytes(text.encode() + b"\n")
    assert same(files.read_matrix(str(path)), MATRIX)


def test_a_matrix_as_numpy_writes_it(tmp_path):
    for name in ("m.csv", "m.txt"):
        np.savetxt(tmp_path / name, MATRIX, header="first second")
        assert same(files.read_matrix(tmp_path / name), MATRIX)  # 18 digits
    for x in (MATRIX, np.asfortranarray(MATRIX), MATRIX[::-1], MATRIX.astype(">f8")):
        np.save(tmp_path / "m.npy", x)
        assert same(files.read_matrix(tmp_path / "m.npy"), x.astype(float))
    np.savez_compressed(tmp_path / "m.npz", a=MATRIX, b=np.arange(4, dtype=np.uint8))
    assert same(files.read_matrix(tmp_path / "m.npz", "a"), MATRIX)
    assert same(files.read_matrix(tmp_path / "m.npz", key="b"), np.arange(4.0).reshape(4, 1))
    np.savez(tmp_path / "one.npz", MATRIX)
    assert same(files.read_matrix(tmp_path / "one.npz"), MATRIX)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (40, 3)])
def test_a_matrix_of_any_shape(tmp_path, rng, shape):
    M = rng.standard_normal(shape)
    (tmp_path / "m.csv").write_text("\n".join(",".join(map(repr, row)) for row in M.tolist()))
    np.save(tmp_path / "m.npy", M)
    files.write_table({f"x{j}": M[:, j] for j in range(shape[1])}, tmp_path / "m.parquet")
    files.write_table({f"x{j}": M[:, j] for j in range(shape[1])}, tmp_path / "t.csv")
    for name in ("m.csv", "m.npy", "m.parquet", "t.csv"):
        assert same(files.read_matrix(tmp_path / name), M), name


def test_an_index_of_pandas_is_no_data(tmp_path):
    import pandas

    pandas.DataFrame({"a": [1, 2], "b": [0.5, 0.25]}, index=[5, 9]).to_parquet(tmp_path / "m.parquet")
    assert same(files.read_matrix(tmp_path / "m.parquet"), [[1, 0.5], [2, 0.25]])


@pytest.mark.parametrize("end", [".parquet", ".csv"])
def test_tables_come_back(tmp_path, end, rng):
    rows = [
        {"name": "deep, or so", "rate": 0.1 + 0.2, "n": 3, "tight": True},
        {"name": 'a "quoted"\nline', "rate": float(rng.standard_normal()), "n": 4, "tight": False},
    ]
    path = tmp_path / f"t{end}"
    files.write_table(rows, path)
    assert files.read_table(path).to_pylist() == rows
    files.write_table({name: [row[name] for row in rows] for name in rows[0]}, path)
    assert files.read_table(path).to_pylist() == rows
    files.write_table(files.read_table(path), path)
    assert files.read_table(path).to_pylist() == rows
    files.write_table({"x": rng.standard_normal(50), "k": [np.int64(3)] * 50}, path)
    assert files.read_table(path).column("k").to_pylist() == [3] * 50
    files.write_table([{"a": 1}, {"b": 2.5}], path)  # a key that is missing
    assert files.read_table(path).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": 2.5}]


@pytest.mark.parametrize(
    ("table", "error", "match"),
    [
        ({}, ValueError, "no columns"),
        ([], ValueError, "no columns"),
        ({"a": [1], "b": [1, 2]}, ValueError, "different lengths: 'a' 1, 'b' 2"),
        ({"a": [1, "x"]}, TypeError, "the column 'a' cannot be stored"),
        ({"a": [object()]}, TypeError, "the column 'a' cannot be stored"),
        ("text", TypeError, "table is a str"),
        ([1, 2], TypeError, "table is a list; a list of rows"),
        ({"a": [[1, 2]]}, TypeError, "which CSV cannot hold"),
    ],
)
def test_tables_that_cannot_be_written(tmp_path, table, error, match):
    with pytest.raises(error, match=match):
        files.write_table(table, tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []


def test_load_tells_runs_from_weights(tmp_path):
    assert isinstance(files.load(save(descent(), tmp_path)), lf.Trajectory)
    with pytest.raises(
        files.FileError, match=r"'.*\.xyz' ends in '.xyz'; load takes .* from .nc, .npz, .safetensors"
    ):
        files.load(tmp_path / "a.xyz")
    with pytest.raises(TypeError, match="path is an int"):
        files.load(3)


def test_the_import_is_light():
    import subprocess
    import sys

    heavy = "xarray h5py h5netcdf pyarrow pandas safetensors torch scipy numba matplotlib"
    heavy += " linflow.dynamics.trajectory linflow.dynamics.flow"
    code = f"import sys, linflow.files; print([m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""`linflow certify`, `landscape`, `simulate`, `design` and `analyze`, which study one start on given data."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from linflow._support.kept import Kept
from linflow._support.words import plural
from linflow.cli._app import app, say
from linflow.cli._options import OPTIONS, ExperimentCommand, takes_experiment
from linflow.cli._show import load_writers, print_analysis, print_json, progress, ready, write_run

if TYPE_CHECKING:
    from linflow.experiments.schema import Experiment

Json = Annotated[bool, typer.Option("--json", help="Print JSON, not text.")]
Rigorous = Annotated[bool, typer.Option("--rigorous", help="Also prove the rounding of the certificate.")]
Verified = Annotated[bool, typer.Option("--verified", help="Also prove by computation when the target is reached.")]
RUN = tuple(name for name, (_, _, panel, _) in OPTIONS.items() if panel in ("Data", "Start", "Run"))
OPTIMIZER = tuple(name for name, (_, _, panel, _) in OPTIONS.items() if panel == "Optimizer")
DATA, DRAWN = (
    tuple(name for name, (_, _, panel, _) in OPTIONS.items() if panel == part) for part in ("Data", "Start")
)
WEIGHTS = (*DATA, *DRAWN)
START = (*WEIGHTS, "algorithm", "step_size", "schedule")


@app.command(cls=ExperimentCommand)
@takes_experiment(*START, "until", "steps", *OPTIMIZER, "proof_steps")
def certify(
    experiment: "Experiment", rigorous: Rigorous = False, verified: Verified = False, as_json: Json = False
) -> None:
    """Certify how fast training from a start converges, before any run.

    Example: linflow certify --target Y.csv --init ntk --hidden 64 --seed 0

    Exit code 0: a rate is certified, or with --verified the target is proved; 1: neither; 2: bad input.
    """
    from linflow.advice.proof_findings import proved
    from linflow.experiments.setup import Setup

    setup = Setup.of(experiment)
    cert = setup.certify(rigorous=rigorous)
    proof = reason = None
    if verified:
        with progress("prove") as tick:
            proof, reason = setup.prove(tick)
    if as_json:
        told = {"proof": {"reason": reason} if proof is None else proof.to_dict()} if verified else {}
        print_json({**cert.to_dict(), **told, **experiment.echo()})
    else:
        say(str(cert).replace("rigorous=True", "--rigorous"))
        if proof is not None:
            say(f"\n{next(proved(proof, cert, experiment.flow.until)).text}")
        elif verified:
            say(f"\nNothing is proved: {reason}.")
        elif cert.best is None and cert.way_out:
            say("\nOn the command line, --verified does this.")
    done = proof is not None and proof.result == "target proved"
    raise typer.Exit(0 if cert.best is not None or done else 1)


@app.command(cls=ExperimentCommand)
@takes_experiment(*WEIGHTS)
def landscape(experiment: "Experiment", as_json: Json = False) -> None:
    """Classify the point where the weights are: gradient and Hessian of the loss, and a verdict.

    Example: linflow landscape --target Y.csv --weights end.npz

    Exit code 0: the kind is known; 1: it is undecided; 2: bad input.
    """
    import linflow as lf
    from linflow.experiments.building import network_of, objective_of

    objective = objective_of(experiment.data)
    found = lf.landscape(objective, network_of(experiment, objective))
    if as_json:
        print_json({**found.to_dict(), **experiment.echo()})
    else:
        say(str(found))
    raise typer.Exit(1 if found.verdict is lf.Verdict.UNDECIDED else 0)


@app.command(cls=ExperimentCommand)
@takes_experiment(*RUN, *OPTIMIZER, "save", "table", "plot")
def simulate(experiment: "Experiment", as_json: Json = False) -> None:
    """Run the gradient flow, or a descent, and print how it ended.

    Example: linflow simulate --target Y.csv --hidden 64 --until 1e-8 --save run.nc

    Exit code 0: the run reached its target, its last time or its last step; 1: it ended otherwise; 2: bad input;
    130: Ctrl-C, with what was done kept.
    """
    import linflow as lf
    from linflow.experiments.analysis import run_summary, unchecked
    from linflow.experiments.setup import Setup

    save, table, plot = experiment.output.save, experiment.output.table, experiment.output.plot
    for path, kinds in ((save, (".nc",)), (table, (".csv", ".parquet")), (plot, (".pdf", ".svg", ".png"))):
        if path is not None:
            ready(path, kinds)
    if save is not None:
        load_writers()
    stopped = None
    try:
        with progress(experiment.algorithm) as tick:
            run = Setup.of(experiment).run(progress=tick)
    except lf.Interrupted as stop:
        stopped, run = stop, unchecked(stop.run)
    written = []
    if save is not None:
        run.save(save, settings=experiment.echo())
        written.append(save)
    if table is not None:
        written += write_run(run, experiment, table)
    if plot is not None and stopped is None:  # after Ctrl-C there is no time to draw; the run is kept
        from linflow import plots

        plots.save(plots.convergence(run), plot, title=experiment.to_toml())
        written.append(plot)
    if stopped is not None:
        kept = f"kept in {', '.join(map(str, written))}" if written else "not kept; --save FILE keeps it"
        at = f"t = {float(run.t[-1]):g} after {plural(run.stats.steps, 'step')}"
        raise Kept(f"interrupted at {at}; the run is {kept}.") from stopped
    if as_json:
        print_json({**run_summary(run), **experiment.echo(), "written": [str(p) for p in written]})
    else:
        say(repr(run))
        for note in run.notes:
            say(f"note: {note}")
        for path in written:
            say(f"wrote {path}")
    raise typer.Exit(0 if run.result.ok else 1)


@app.command(cls=ExperimentCommand)
@takes_experiment(*DATA, "hidden", "seed", "until", "algorithm", "rate", "within", "confirm", "out")
def design(experiment: "Experiment", as_json: Json = False) -> None:
    """Make a start with a certified rate, or one that descends in few certified steps.

    Example: linflow design --target Y.csv --hidden 30 --rate 5 --out start.npz

    Exit code 0: certified, and a run of --confirm kept it; 1: the run broke it; 2: no such start, or bad input;
    130: Ctrl-C, and nothing was written.
    """
    import linflow as lf
    from linflow.experiments.building import objective_of, widths_of
    from linflow.files import save_weights

    out = experiment.output.start
    if out is not None:
        ready(out, (".npz", ".safetensors"))
    objective, asked = objective_of(experiment.data), experiment.design
    with progress("design", known=False):
        found = lf.design(
            objective,
            widths_of(experiment, objective),
            rate=asked.rate,
            algorithm=experiment.algorithm,
            steps=asked.steps,
            until=experiment.flow.until,
            rng=experiment.start.seed,
        )
        check = found.confirm() if asked.confirm else None
    if out is not None:
        save_weights(found.start, out)
    if as_json:
        kept: dict[str, Any] = {} if check is None else {"confirmed": check.holds}
        print_json({**found.to_dict(), **kept, **experiment.echo()})
    else:
        say(repr(found))
        say(found.reason)
        for note in found.notes:
            say(f"note: {note}")
        if check is not None:
            say(str(check).rstrip())
        if out is not None:
            say(f"wrote {out}")
    raise typer.Exit(0 if check is None or check.holds else 1)


@app.command(cls=ExperimentCommand)
@takes_experiment(*RUN, "proof_steps", "folder")
def analyze(experiment: "Experiment", as_json: Json = False) -> None:
    """Certify a start, run it, compare the two, and report what limits the rate.

    Writes index.html, analysis.json, run.nc and experiment.toml, which runs the same again.

    Example: linflow analyze --x X.csv --y Y.csv --init ntk --hidden 64,64 --seed 0

    Exit code 0: the run reached its target and kept the certificate; 1: it did not, or nothing is certified;
    2: bad input; 130: Ctrl-C, with what was done kept.
    """
    from linflow.experiments.analysis import AnalysisInterrupted, finished, started, stopped
    from linflow.pages.analysis import FILES, template, write

    out, begun = experiment.output.folder, None
    for name in FILES:
        ready(out / name, made=True)
    earlier = (out / "index.html").exists()
    load_writers()
    template()
    try:
        with progress("analyze") as tick:
            begun = started(experiment, tick)
        with progress("prove") as tick:
            found = finished(begun, tick)
        index = write(found, out)
    except KeyboardInterrupt as stop:
        where = "the end of the run"
        if isinstance(stop, AnalysisInterrupted):
            begun = stop.analysis
            where = f"t = {float(begun.run.t[-1]):g}"
        if begun is None:
            raise
        index = write(stopped(begun), out, drawings=False)
        raise Kept(f"interrupted at {where}; the results so far are in {index}.") from stop
    if as_json:
        print_json(found.to_dict())
    else:
        print_analysis(found, index)
        if earlier:
            say("It replaced an earlier one; use --out FOLDER to keep both.")
    raise typer.Exit(0 if found.passed else 1)

"""The command line: ``hierphase list``, ``run``, ``fetch``, ``sweep``, ``train`` ..."""

import os
import signal
import sys
import textwrap
import threading
from pathlib import Path

import click

from hierphase import __version__
from hierphase.runs import RunError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; by default those of the process.

    Returns:
        The exit status: 0, 1 for a cell or shards that failed and results that disagree, 2 for
        wrong usage, 130 after Ctrl-C and after SIGTERM.
    """
    _open_standard_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with commands.make_context("hierphase", arguments) as context:
            commands.invoke(context)
        return 0
    except click.exceptions.Exit:  # after --help or --version
        return 0
    except KeyboardInterrupt as interrupt:
        status, message = 130, str(interrupt) or "interrupted"
    except click.UsageError as error:
        status, message = 2, f"error: {error.format_message()}"
    except (RunError, ValueError, OSError, ImportError) as error:
        status, message = 1 if isinstance(error, RunError) else 2, f"error: {error}"
    print(f"hierphase: {message}", file=sys.stderr)
    return status


def _open_standard_streams() -> None:
    """Open those that are closed: the next file would take their place, in kernels too."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, "r+"))


def _print(text: str) -> None:
    """Print for any terminal and pipe: what a terminal lacks is escaped, what nobody reads lost."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse_values(pairs: tuple[tuple[str, str], ...], defaults: dict) -> dict:
    """The values of the options ``-p NAME VALUE``."""
    from hierphase.parameters import parse_value

    values = {}
    for name, text in pairs:
        if name in values:
            raise ValueError(f"parameter {name} is given twice: {values[name]!r} and {text!r}")
        values[name] = parse_value(text, defaults.get(name))
    return values


_PAIRS = {"nargs": 2, "multiple": True, "metavar": "NAME VALUE"}
_VALUES = click.Option(["-p", "values"], **_PAIRS, help="Parameter, a Python literal; repeatable.")
_SPREAD = (  # a sweep's parameters, where it is run, and where its result goes
    _VALUES,
    click.Option(["--output"], metavar="DIR", help="By default in runs, by its name."),
    click.Option(["--executor"], default="in-process", help="Or processes, dask or slurm."),
    click.Option(["--workers"], type=click.IntRange(1), help="By default one a core; SLURM's 256."),
    click.Option(["--scheduler"], metavar="ADDRESS", help="Of a Dask cluster that is running."),
    click.Option(["--slurm"], **_PAIRS, help="Of its jobs: partition, time (minutes) ..."),
    click.Option(["--shard-size"], type=int, default=16),
)
_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(no_args_is_help=False, context_settings=_SETTINGS)
@click.version_option(__version__, message="hierphase %(version)s")
def commands():
    """Run the book's experiments."""


@commands.command("list")
def _list():
    """Show the chapters, their parameters and what a run costs."""
    from hierphase.runs import chapters

    for name in chapters.names():
        try:
            chapter = chapters.load(name)
        except ValueError as error:
            print(f"hierphase: error: {error}", file=sys.stderr)
            continue
        _print(f"{name}: {chapter.title}\n{textwrap.indent(chapter.parameters, '    ')}")
        for cost in chapter.costs:
            takes = "    {time}, {memory} of memory, {disk} on disk: ".format_map(cost)
            _print(f"{takes}{chapters.command(name, cost['changes'])}")


@commands.command("run", params=[_VALUES])
@click.argument("chapter")
@click.option("--output", metavar="DIR", help="Of what is left; by default runs/CHAPTER.")
def _run(chapter, values, output):
    """Execute a chapter, with other parameters if you like."""
    from hierphase.runs import chapters

    notebook = chapters.run(chapter, _parse_values(values, chapters.load(chapter).defaults), output)
    found = "".join(f"\nresult: {path}" for path in sorted(notebook.parent.glob("*.nc")))
    _print(f"executed notebook: {notebook}{found}\npage for a browser: {chapters.page(notebook)}")
    _print("next: open the page; `hierphase compare` tells whether a result agrees with the book's")


@commands.command("train")
@click.argument("name")
@click.option("--output", metavar="DIR", help="Receives the trained model.")
@click.option("--steps", type=int, help="Train for N steps.")
@click.option("--seed", type=int, default=0)
def _train(name, output, steps, seed):
    """Train one of the book's models. An unknown NAME lists them."""
    from hierphase.networks import catalogue

    catalogue.train(name, output, steps, seed)


@commands.command("fetch")
@click.argument("name")
@click.option("--from", "folder", metavar="DIR", help="With its files or archives, at any depth.")
def _fetch(name, folder):
    """Get a published data set into the cache. An unknown NAME lists them."""
    from hierphase.diffusion import published

    _print(f"data set: {published.fetch(name, folder)}")


@commands.command("sweep", params=[*_SPREAD])
@click.argument("chapter")
@click.option("--preset", required=True, metavar="NAME", help="An unknown one lists them.")
def _sweep(chapter, preset, values, output, executor, workers, scheduler, slurm, shard_size):
    """Run the experiment of a chapter on all its images. An unknown CHAPTER lists them."""
    from hierphase.experiments import registry
    from hierphase.runs import results
    from hierphase.runs.executors import open_executor

    values = _parse_values(values, registry.all_parameters(chapter, preset))
    values = registry.all_parameters(chapter, preset, values)  # before an executor is opened
    output = output or f"runs/{chapter}-{preset}"
    with open_executor(executor, output, workers, scheduler, _parse_values(slurm, {})) as opened:
        registry.run_sweep(chapter, preset, values, output, shard_size, opened)
    _print(f"result: {results.result_path(chapter, preset, output)}")


@commands.command("measure", params=[*_SPREAD])
@click.argument("model")
@click.argument("images")
@click.option("--labels", metavar="CSV", help="Of a folder of images: file,label.")
@click.option("--classifier", metavar="NAME", help="Of the book, a folder, or torchvision's.")
@click.option("--clusters", type=int, metavar="K", help="Classes are K clusters of the images.")
@click.option("--limit", type=int, metavar="N", help="Images in all, by default 200 at most.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and write nothing.")
def _measure(values, output, executor, workers, scheduler, slurm, shard_size, dry_run, **given):
    """Where MODEL loses the class of IMAGES, beside a flat mixture of these, with a report.

    MODEL is a model of the book, a diffusers folder or a guided-diffusion checkpoint; IMAGES a data
    set of the book or a folder. -p sets any other parameter (n_times, precision ...).
    """
    from hierphase.experiments import your_model
    from hierphase.runs.executors import open_executor

    changes = _parse_values(values, your_model.PRESET)
    if settled := changes.keys() & given:
        raise ValueError(f"-p {min(settled)} has no effect: it is an argument or an option")
    given |= changes
    if dry_run:
        return _print(your_model.plan(your_model.chosen(**given), shard_size))
    output = output or "runs/your-model"
    with open_executor(executor, output, workers, scheduler, _parse_values(slurm, {})) as opened:
        given |= {"output": output, "shard_size": shard_size, "executor": opened}
        _print(your_model.measure_transition(**given).table().to_string())
    _print(f"report: {output}/report.html\nnumbers: {output}/measure.nc")


@commands.command("compare")
@click.argument("result", metavar="RESULT.nc")
def _compare(result):
    """Say whether a result agrees with the book's of the same chapter and preset.

    Differences are those of means over units, in combined standard errors. The status is 0 where no
    variable differs by more than chance allows, and 1 where one does.
    """
    from hierphase.runs.comparison import compare

    table = compare(result)
    _print("\n".join([*table.attrs["parameters"], table.round(2).to_string(na_rep="")]))
    if not table.attrs["agrees"]:
        raise RunError(f"{result} does not agree with the book's result")
    _print("agrees: nothing differs by more than chance allows")


@commands.command("convert-adm", params=[_VALUES])
@click.argument("checkpoint")
@click.argument("output", metavar="OUTPUT_DIR", type=click.Path(file_okay=False, path_type=Path))
def _convert_adm(checkpoint, output, values):
    """Turn a checkpoint of guided-diffusion into a diffusers model.

    CHECKPOINT is a .pt or .safetensors file; OUTPUT_DIR receives unet/ and scheduler/. -p sets a
    flag of guided-diffusion that is not that of the unconditional 256x256 model, e.g. -p class_cond
    True.
    """
    from diffusers import DDPMPipeline

    from hierphase.diffusion.guided_diffusion import load_adm
    from hierphase.diffusion.guided_diffusion_flags import ADMFlags
    from hierphase.files import check_holds_only
    from hierphase.networks.checkpoints import save_model

    check_holds_only(output, "a converted model", ("model_index.json", "scheduler", "unet"))
    unet, scheduler = load_adm(checkpoint, **_parse_values(values, vars(ADMFlags())))
    save_model(DDPMPipeline(unet, scheduler), output)
    _print(f"diffusers model: {output}")


if __name__ == "__main__":
    sys.exit(main())

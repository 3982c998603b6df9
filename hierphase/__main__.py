"""The command line: ``hierphase list``, ``run``, ``train``, ``sweep`` and ``convert-adm``."""

import argparse
import dataclasses
import os
import sys
import textwrap
from pathlib import Path

from hierphase import __version__
from hierphase.parameters import parse_value
from hierphase.runs import chapters
from hierphase.runs.executors import EXECUTORS, ShardError, open_executor


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; by default those of the process.

    Returns:
        The exit status: 0, 1 for a cell, a training or shards that failed, 2 for wrong usage, 130
        after Ctrl-C.
    """
    _open_standard_streams()
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
        return 0
    except KeyboardInterrupt as interrupt:
        status, message = 130, str(interrupt) or "interrupted"
    except (chapters.CellError, ShardError) as error:
        status, message = 1, f"error: {error}"
    except (ValueError, OSError, ImportError) as error:
        status, message = 2, f"error: {error}"
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hierphase", description="Run the book's experiments.")
    parser.add_argument("--version", action="version", version=f"hierphase {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    values = {
        "nargs": 2,
        "action": "append",
        "default": [],
        "dest": "values",
        "metavar": ("NAME", "VALUE"),
        "help": "set a parameter; VALUE is a Python literal. Repeat it for more parameters",
    }
    listing = commands.add_parser("list", help="show the chapters and their parameters")
    listing.set_defaults(command=_list)

    run = commands.add_parser("run", help="execute a chapter, with other parameters if you like")
    run.add_argument("chapter", metavar="CHAPTER", help="as in `hierphase list`")
    run.add_argument("-p", **values)
    run.add_argument("--output", metavar="DIR", help="of what is left (default: runs/CHAPTER)")
    run.set_defaults(command=_run)

    train = commands.add_parser("train", help="train one of the book's models")
    train.add_argument("name", metavar="NAME", help="which; an unknown one lists them")
    train.add_argument("--output", metavar="DIR", help="receives the trained model")
    train.add_argument("--steps", type=int, metavar="N", help="train for N steps")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    train.set_defaults(command=_train)

    sweep = commands.add_parser("sweep", help="run the experiment of a chapter on all its images")
    sweep.add_argument("chapter", metavar="CHAPTER", help="an unknown one lists them")
    sweep.add_argument("--preset", required=True, metavar="NAME", help="an unknown one lists them")
    sweep.add_argument("-p", **values)
    sweep.add_argument("--output", metavar="DIR", help="default: runs/CHAPTER-PRESET")
    sweep.add_argument(
        "--executor",
        default="in-process",
        metavar="NAME",
        help=f"one of {', '.join(EXECUTORS)} (default: in-process)",
    )
    sweep.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, Dask workers or SLURM jobs at once (default: one a core; SLURM: 256)",
    )
    sweep.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that is running")
    sweep.add_argument(
        "--slurm",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="an option of the SLURM jobs, such as partition, time (minutes) or gpus_per_node",
    )
    sweep.add_argument("--shard-size", type=int, default=16, metavar="N", help="default: 16")
    sweep.set_defaults(command=_sweep)

    convert = commands.add_parser(
        "convert-adm",
        help="turn a checkpoint of guided-diffusion into a diffusers model",
        description="-p sets a flag of guided-diffusion that is not that of the unconditional "
        "256x256 model, e.g. -p class_cond True",
    )
    convert.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pt or .safetensors file")
    convert.add_argument("output", metavar="OUTPUT_DIR", help="receives unet/ and scheduler/")
    convert.add_argument("-p", **values)
    convert.set_defaults(command=_convert_adm)
    return parser


def _list(options: argparse.Namespace) -> None:
    for name in chapters.names():
        try:
            chapter = chapters.load(name)
        except ValueError as error:
            print(f"hierphase: error: {error}", file=sys.stderr)
            continue
        _print(f"{chapter.name}: {chapter.title}")
        _print(textwrap.indent(chapter.parameters, "    "))


def _run(options: argparse.Namespace) -> None:
    values = _parse_values(options.values, chapters.load(options.chapter).defaults)
    _print(f"executed notebook: {chapters.run(options.chapter, values, options.output)}")


def _parse_values(pairs: list[list[str]], defaults: dict) -> dict:
    """The values of the options ``-p NAME VALUE``."""
    values = {}
    for name, text in pairs:
        if name in values:
            raise ValueError(f"parameter {name} is given twice: {values[name]!r} and {text!r}")
        values[name] = parse_value(text, defaults.get(name))
    return values


def _train(options: argparse.Namespace) -> None:
    from hierphase.networks import catalogue

    catalogue.train(options.name, options.output, options.steps, options.seed)


def _convert_adm(options: argparse.Namespace) -> None:
    from diffusers import DDPMPipeline

    from hierphase.diffusion.guided_diffusion import load_adm
    from hierphase.diffusion.guided_diffusion_flags import ADMFlags

    if Path(options.output).is_file():
        raise ValueError(f"{options.output} is a file: give a directory for the model")
    defaults = {field.name: field.default for field in dataclasses.fields(ADMFlags)}
    unet, scheduler = load_adm(options.checkpoint, **_parse_values(options.values, defaults))
    DDPMPipeline(unet, scheduler).save_pretrained(options.output)
    _print(f"diffusers model: {options.output}")


def _sweep(options: argparse.Namespace) -> None:
    from hierphase.runs import results, sweep

    chapter, preset = options.chapter, options.preset
    values = _parse_values(options.values, sweep.preset_parameters(chapter, preset))
    sweep.all_parameters(chapter, preset, values)
    output = options.output or f"runs/{chapter}-{preset}"
    executor = open_executor(
        options.executor,
        output,
        options.workers,
        options.scheduler,
        _parse_values(options.slurm, {}),
    )
    with executor as opened:
        sweep.run_sweep(chapter, preset, values, output, options.shard_size, opened)
    _print(f"result: {results.result_path(chapter, preset, output)}")


if __name__ == "__main__":
    sys.exit(main())

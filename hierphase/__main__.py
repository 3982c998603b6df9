"""The command line: ``hierphase list``, ``hierphase run`` and ``hierphase train``."""

import argparse
import sys

from hierphase import chapters


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; by default those of the process.

    Returns:
        The exit status: 0, 1 for a cell or a training that failed, 2 for wrong usage, 130 after
        Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"hierphase: error: {error}", file=sys.stderr)
        return 2
    except chapters.CellError as error:
        print(f"hierphase: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"hierphase: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hierphase", description="Run the book's experiments.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="show the chapters and their parameters")
    listing.set_defaults(command=_list)

    run = commands.add_parser("run", help="execute a chapter, with other parameters if you like")
    run.add_argument("chapter", metavar="CHAPTER", help="as in `hierphase list`")
    run.add_argument(
        "-p", nargs=2, action="append", default=[], dest="values", metavar=("NAME", "VALUE"),
        help="set a parameter; VALUE is a Python literal. Repeat it for more parameters",
    )
    run.add_argument(
        "--output", metavar="DIR",
        help="receives the executed notebook and its results (default: runs/CHAPTER)",
    )
    run.set_defaults(command=_run)

    train = commands.add_parser("train", help="train one of the book's models")
    train.add_argument("name", metavar="NAME", help="which; an unknown one lists them")
    train.add_argument("--output", metavar="DIR", help="receives the trained model")
    train.add_argument("--steps", type=int, metavar="N", help="train for N steps")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    train.set_defaults(command=_train)
    return parser


def _list(options: argparse.Namespace) -> None:
    for chapter in chapters.load_all().values():
        print(f"{chapter.name}: {chapter.title}")
        for parameter in chapter.parameters.values():
            assignment = f"{parameter.name} = {parameter.default!r}"
            comment = f"  # {parameter.comment}" if parameter.comment else ""
            print(f"    {assignment:<32}{comment}".rstrip())


def _run(options: argparse.Namespace) -> None:
    parameters = chapters.load(options.chapter).parameters
    values = {}
    for name, text in options.values:
        if name in values:
            raise ValueError(f"parameter {name} is given twice: {values[name]!r} and {text!r}")
        default = parameters[name].default if name in parameters else None
        values[name] = chapters.parse_value(text, default)
    print(f"executed notebook: {chapters.run(options.chapter, values, options.output)}")


def _train(options: argparse.Namespace) -> None:
    from hierphase import training

    if options.name not in training.TRAININGS:
        raise ValueError(chapters.unknown("training", options.name, list(training.TRAININGS)))
    training.train(
        options.name, output=options.output, steps=options.steps, seed=options.seed
    )


if __name__ == "__main__":
    sys.exit(main())

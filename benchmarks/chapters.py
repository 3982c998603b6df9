"""Time, memory and disk of every chapter, at the parameters that its front matter names.

Prints a table with what the page says beside what was measured: seconds of the command, the largest
memory of all its processes together, and bytes in its output folder. The page shows them under
"Run this chapter", and ``hierphase list`` prints them.

Usage: python benchmarks/chapters.py [--write] [--quick] [CHAPTER ...]
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from hierphase.runs import chapters
from hierphase.runs.results import book_directory

UNITS = {
    "time": {"s": 1, "min": 60, "h": 3600},
    "memory": {"MB": 1e6, "GB": 1e9},
    "disk": {"kB": 1e3, "MB": 1e6, "GB": 1e9},
}


def memory(process):
    """Bytes of a process and of those below it; what they share counts once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += (
                one.memory_full_info().pss if sys.platform == "linux" else one.memory_info().rss
            )
    return total


def measure(name, changes):
    """What a run takes: seconds, bytes of memory, bytes on disk."""
    with tempfile.TemporaryDirectory() as folder:
        words = shlex.split(chapters.command(name, changes))[:-1]  # without the folder
        command = [sys.executable, "-m", *words, f"{folder}/{name}"]
        start, peak = time.perf_counter(), 0
        running = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while running.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, memory(running))
            time.sleep(0.2)
        if running.returncode:
            raise SystemExit(running.stderr.read().decode())
        seconds = time.perf_counter() - start
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {"time": seconds, "memory": peak, "disk": disk}


def in_words(what, value):
    """Two digits and a unit: 1.3 GB."""
    units = UNITS[what]
    unit = max(
        (unit for unit in units if value >= units[unit]),
        key=units.get,
        default=min(units, key=units.get),
    )
    amount = max(value / units[unit], 1)
    return f"{float(f'{amount:.2g}'):g} {unit}"


def write(name, costs):
    """Put the costs into the front matter of a chapter; the rest of it stays."""
    path = book_directory() / f"{name}.md"
    _, front, page = path.read_text().split("---\n", 2)
    kept, _, after = front.partition("hierphase:\n")
    own = [line for line in after.splitlines(keepends=True) if not line.startswith(" ")]
    lines = [
        yaml.safe_dump(cost, default_flow_style=True, sort_keys=False, width=1e9) for cost in costs
    ]
    block = "hierphase:\n  costs:\n" + "".join(f"    - {line}" for line in lines)
    path.write_text(f"---\n{kept}{block}{''.join(own)}---\n{page}")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="all by default")
    parser.add_argument("--write", action="store_true", help="put the numbers into the pages")
    parser.add_argument("--quick", action="store_true", help="each as it stands only")
    options = parser.parse_args()
    names = options.chapters or chapters.names()
    print(f"{'command':60} {'time':>17} {'memory':>17} {'disk':>17}   measured (page)")
    for name in names:
        costs = chapters.load(name).costs or [{"changes": {}}]
        for cost in costs[:1] if options.quick else costs:
            found = {what: in_words(what, x) for what, x in measure(name, cost["changes"]).items()}
            shown = [f"{x} ({cost.get(what, '?')})" for what, x in found.items()]
            command = chapters.command(name, cost["changes"])
            print(f"{command:60}", *(f"{text:>17}" for text in shown), flush=True)
            cost.update(found)
        if options.write:
            write(name, costs)


if __name__ == "__main__":
    main()

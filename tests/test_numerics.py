"""A reminder: whoever changes what computes raises NUMERICS, or says that no number changes."""

import json

import numerics

ADVICE = (
    "{} changed. If a number changes by that or is added, raise NUMERICS in "
    "hierphase/runs/shards.py, so that no sweep goes on from shards of the old numbers. If all "
    "stay the same bit for bit, leave it. Then confirm either by: python tests/numerics.py"
)


def test_changed_sources_come_with_a_decision_about_the_numbers():
    stored, found = json.loads(numerics.STORED.read_text()), numerics.current()
    names = stored["files"].keys() | found["files"].keys()
    changed = [n for n in sorted(names) if stored["files"].get(n) != found["files"].get(n)]
    assert stored == found, ADVICE.format(", ".join(changed) or "NUMERICS")


def test_only_code_counts():
    source = 'def f(x):\n    """Twice x."""\n    return 2 * x\n'
    assert numerics.digest(source) == numerics.digest('def f(x):\n    "2 x"\n    return 2*x # x')
    assert numerics.digest(source) != numerics.digest(source.replace("2 * x", "3 * x"))

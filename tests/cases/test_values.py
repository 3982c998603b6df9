"""Values of parameters that JSON has no word for, or that a chapter or preset cannot take.

Each is refused in one line that repeats it, with status 2, before a kernel or a sweep is started.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hierphase.__main__ import main
from hierphase.experiments import registry
from hierphase.parameters import check_values, parse_value
from hierphase.runs import chapters

NAMES = chapters.names()

#: What is typed after `-p NAME` -> how the message shows it.
NO_JSON = {
    "b'abc'": "b'abc'",
    "[b'abc']": "b'abc'",
    "{1: 2}": "{1: 2}",
    "{'a': {None: 1}}": "{None: 1}",
    "{(1, 2): 3}": "{(1, 2): 3}",
    "{1, 2}": "{1, 2}",
    "1j": "1j",
    "[1, 2-1j]": "(2-1j)",
    "...": "Ellipsis",
    "NaN": "nan",
    "Infinity": "inf",
    "-Infinity": "-inf",
    "1e999": "inf",
    "[0.5, -1e999]": "-inf",
    '{"a": [NaN]}': "nan",
}


@pytest.mark.parametrize("default", [None, {}, [1], 3, 0.5, False], ids=repr)
@pytest.mark.parametrize("typed", NO_JSON)
def test_what_json_has_no_word_for(typed, default):
    with pytest.raises(ValueError) as caught:
        check_values("chapter tree", {"x": default}, {"x": parse_value(typed, default)})
    assert str(caught.value) == (
        f"parameter x of chapter tree cannot be {NO_JSON[typed]}, for which JSON has no word"
    )


@pytest.mark.parametrize("typed", ["b'abc'", "b''", 'b"abc"'])
def test_bytes_are_no_text(typed):
    with pytest.raises(ValueError, match=r"cannot be b'(abc)?', for which JSON has no word"):
        check_values("chapter tree", {"x": "oak"}, {"x": parse_value(typed, "oak")})


@pytest.mark.parametrize("typed", ["1j", "...", "{1, 2}", "NaN", "12", "{'a': None}", "1e999"])
def test_where_text_is_wanted_the_rest_is_text(typed):
    assert (
        check_values("chapter tree", {"x": "oak"}, {"x": parse_value(typed, "oak")})["x"] == typed
    )


@pytest.mark.parametrize(
    "value", [Path("a"), np.int64(3), np.arange(3), torch.ones(2), len, {"a": Path("a")}], ids=repr
)
def test_what_python_may_pass_besides(value):
    with pytest.raises(ValueError, match="for which JSON has no word"):
        check_values("chapter tree", {"x": None}, {"x": value})


@pytest.mark.parametrize("typed", ["[" * 100_000, "-" * 100_000 + "1", "9" * 5000, '{"a":' * 9999])
def test_what_no_parser_takes_is_text(typed):
    assert parse_value(typed, None) == typed


@pytest.mark.parametrize(
    "value, kept",
    [
        ((1, (2, 3)), [1, [2, 3]]),
        ({"a": ((1, None), True)}, {"a": [[1, None], True]}),
        ({"a": None}, {"a": None}),
        (10**400, 10**400),
    ],
)
def test_what_json_gives_back_is_kept(value, kept):
    assert check_values("chapter tree", {"x": None}, {"x": value}) == {"x": kept}


@pytest.mark.parametrize(
    "default, value, message",
    [
        (0.5, 10**400, r"is of type float \(default 0.5\); 10+ is of type int"),
        ({}, {"a": "caf\udce9"}, r"parameter x of chapter tree: 'caf\\udce9' is not UTF-8"),
        ({}, {"caf\udce9": 1}, r"parameter x of chapter tree: 'caf\\udce9' is not UTF-8"),
        (None, ["caf\udce9"], r"parameter x of chapter tree: 'caf\\udce9' is not UTF-8"),
    ],
)
def test_wrong_within(default, value, message):
    with pytest.raises(ValueError, match=message):
        check_values("chapter tree", {"x": default}, {"x": value})


@pytest.mark.parametrize("typed", ["b'abc'", "{1, 2}", "1j", "...", "{(1,2):3}", "NaN", "{1:2}"])
def test_of_a_sweep(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep = ["sweep", "imagenet-transition", "--preset", "digits"]
    assert main([*sweep, "-p", "classifier_weights", typed]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(
        "hierphase: error: parameter classifier_weights of preset digits cannot"
    )
    assert shown.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("typed", ["None", "null"])
def test_none_is_no_text(typed):
    value = parse_value(typed, "IMAGENET1K_V1")
    changed = registry.all_parameters(
        "imagenet-transition", "imagenet", {"classifier_weights": value}
    )
    assert changed["classifier_weights"] is None


# --- of the book's chapters

#: Chapter -> parameters that it refuses, and what the message says.
REFUSED = {
    "bp-theory": [
        ("changes_draws", '{"n_rules": 1}', "n_rules must be at least 2, got 1"),
        ("L", "-3", "L must be at least 1, got -3"),
        ("L", "0", "L must be at least 1, got 0"),
        ("L", "1", "L must be at least 2, got 1"),
        ("v", "1", "v must be at least 2, got 1"),
        ("m", "33", "only v**s = 32**2 = 1024 exist; choose m at most 32"),
        ("s", "1", "s must be at least 2, got 1"),
        ("n_rules", "0", "n_rules must be at least 1, got 0"),
        ("n_data", "-1", "n_data must be at least 1, got -1"),
        ("n_epsilon", "1", "n_epsilon must be at least 2, got 1"),
    ],
    "exponents": [
        ("m", "17", "have no transition: F' is 1.03 and 0.114 at 1 and"),
        ("m", "33", "only v**s = 32**2 = 1024 exist; choose m at most 32"),
        ("s", "1", "s must be at least 2, got 1"),
        ("v", "1", "v must be at least 2, got 1"),
        ("n_leaves", "31", "n_leaves must be at least 32, got 31"),
        ("n_rules", "1", "n_rules must be at least 2, got 1"),
        ("n_data", "0", "n_data must be at least 1, got 0"),
        ("n_draws", "1", "n_draws must be at least 2, got 1"),
        ("n_population", "99", "n_population must be at least 100, got 99"),
        ("n_population", "300000", "n_population must be at most 292968 where v**s = 1024"),
    ],
    "gaussian-diffusion": [
        ("L", "-3", "L must be at least 1, got -3"),
        ("m", "0", "m must be at least 1, got 0"),
        ("n_rules", "0", "n_rules must be at least 1, got 0"),
        ("n_data", "0", "n_data must be at least 1, got 0"),
        ("n_times", "0", "n_times must be at least 2, got 0"),
        ("n_stepwise", "1", "n_stepwise must be at least 2, got 1"),
    ],
    "random-hierarchy-model": [
        ("L", "-3", "L must be at least 1, got -3"),
        ("L", "1", "L must be at least 2, got 1"),
        ("v", "3", "only v**s = 3**2 = 9 exist; choose m at most 3"),
        ("n_rules", "1", "n_rules must be at least 2, got 1"),
        ("n_data", "0", "n_data must be at least 2, got 0"),
    ],
    "index": [
        ("rows", "0", "rows must be at least 1, got 0"),
        ("step", "0", "step must be at least 1, got 0"),
    ],
    "samplers": [
        ("data_sets", "[]", "data_sets is empty: name one of"),
        ("data_sets", '["digit"]', "unknown preset of imagenet-transition 'digit-ddpm-50'"),
        ("changes", '{"n_times": 1.5}', "parameter n_times of preset digits-ddpm-50 is of type"),
    ],
    "scorecard": [
        ("n_rules", "0", "n_rules must be at least 1, got 0"),
        ("n_data", "0", "n_data must be at least 1, got 0"),
    ],
    "correlations": [
        ("changes", '{"n_rule": 3}', "unknown parameter of preset tree 'n_rule' (did you mean 'n"),
        ("changes", '{"L": "x"}', "parameter L of preset tree is of type int"),
        ("n_fields", "0", "n_fields must be at least 1, got 0"),
        ("n_resamples", "-1", "n_resamples must be at least 2, got -1"),
        ("seed", "-1", "seed must be at least 0, got -1"),
    ],
    "datasets": [
        ("preset", "digit", "unknown preset of evidence 'digit' (did you mean 'digits'"),
        ("changes", '{"source": []}', "unknown parameter of preset signs 'source' (did you mean"),
    ],
    "image-correlations": [
        ("preset", "digit", "unknown preset of image-correlations 'digit' (did you mean 'digits'"),
        ("changes", '{"n_times": 1.5}', "parameter n_times of preset fashion-mnist is of type int"),
        ("n_resamples", "0", "n_resamples must be at least 2, got 0"),
    ],
    "image-layers": [
        ("preset", "fashion", "unknown preset of imagenet-transition 'fashion'"),
        ("changes", '{"seed": null}', "parameter seed of preset fashion-mnist is of type int"),
    ],
    "imagenet-transition": [
        ("preset", "digit", "unknown preset of imagenet-transition 'digit' (did you mean 'digits'"),
        ("seed", "x", "parameter seed of preset fashion-mnist is of type int"),
        ("n_times", "2.5", "parameter n_times of preset fashion-mnist is of type int"),
        ("changes", '{"l": 1}', "unknown parameter of preset fashion-mnist 'l'"),
    ],
    "ablations": [
        ("v", "1", "v must be at least 2, got 1"),
        ("m", "17", "m=17 rules need 272 different tuples"),
        ("s", "1", "s must be at least 2, got 1"),
        ("L", "0", "L must be at least 1, got 0"),
        ("n_rules", "1", "n_rules must be at least 2, got 1"),
        ("changes", '{"n_leaves": 0}', "n_leaves must be at least 1, got 0"),
        ("changes_kinds", '{"trees": [{"v": 4}]}', "each of trees must say v, m, s and L"),
    ],
    "ablations-networks": [
        ("structures", '["cnn-6-6-4-4"]', "unknown structures 'cnn-6-6-4-4' (did you mean"),
        ("structures", "[]", "structures must be at least 1, got 0"),
        ("shapes", '["mpl-6-6-4-3"]', "unknown shapes 'mpl-6-6-4-3' (did you mean 'mlp-6-6-4-3'"),
    ],
    "ablations-denoisers": [
        ("denoisers", '["unet-m2-L6"]', "unknown denoisers 'unet-m2-L6' (did you mean"),
        ("denoisers", "[]", "denoisers must be at least 1, got 0"),
    ],
    "u-turns": [
        ("changes", '{"rates": [0.5, 1]}', "rates must be a number, 1e-06 to 0.999999"),
        ("changes_gaussian", '{"noise": "epsilon"}', "unknown value of noise 'epsilon'"),
        ("changes_depths", '{"n_rules": 1}', "n_rules must be at least 2, got 1"),
        ("changes_images", '{"turns": [4, 2]}', "turns must increase, 1 or more"),
    ],
    "universality": [
        (
            "changes",
            '{"samplers": {"DDMP": [10]}}',
            "unknown value of samplers 'DDMP' (did you mean 'DDPM'",
        ),
        ("changes", '{"n_units": 1}', "n_units must be at least 2, got 1"),
        ("n_data", "8", "n_data must be at least 16, got 8"),
        ("data_sets", '["digit"]', "unknown preset of universality 'digit' (did you mean 'digits'"),
        ("all_steps", '["digit"]', "unknown preset of universality 'digit-all-steps'"),
        ("changes_images", '{"n_units": 0}', "n_units must be at least 1, got 0"),
    ],
    "speciation": [
        ("changes", '{"noises": [0.5, 0.5]}', "noises must increase, 1 or more"),
        ("changes_gaussian", '{"n_data": 0}', "n_data must be at least 1, got 0"),
        ("n_rules", "1", "n_rules must be at least 2, got 1"),
        ("n_data", "x", "parameter n_data of chapter speciation is of type int"),
    ],
    "your-model": [
        ("measured", "nowhere", "nowhere holds no measurement: run `hierphase measure` first"),
        ("limit", "9", "must be at least 10, got 9"),
        ("changes", '{"n_time": 3}', "unknown parameter of a measurement 'n_time' (did you mean"),
    ],
    "learned-denoisers": [
        ("sizes", "[1]", "parameter sizes of preset tree is of type dict"),
        ("n_data", "x", "parameter n_data of chapter learned-denoisers is of type int"),
    ],
    "evidence": [
        ("preset", "law", "unknown preset of evidence 'law' (did you mean 'laws'"),
        ("changes", '{"sources": 1}', "parameter sources of preset signs is of type list"),
    ],
    "natural-images": [
        ("preset", "cifar10-64", "unknown preset of imagenet-transition 'cifar10-64'"),
        ("changes", '{"n_times": 1.5}', "parameter n_times of preset cifar10-8 is of type int"),
    ],
    "probe-curves": [
        ("n_networks", "7", "n_networks must be at most 6, got 7"),
        ("n_networks", "0", "n_networks must be at least 1, got 0"),
        ("n_blocks", "0", "n_blocks must be at least 1, got 0"),
        ("block", "0", "block must be at least 1, got 0"),
        ("block_control", "0", "block_control must be at least 1, got 0"),
        ("n_decoding", "0", "n_decoding must be at least 1, got 0"),
        ("n_rules", "0", "n_rules must be at least 1, got 0"),
        ("seed", "-1", "seed must be at least 0, got -1"),
    ],
}


@pytest.mark.parametrize(
    "chapter, name, typed, message",
    [pytest.param(chapter, *row) for chapter, rows in REFUSED.items() for row in rows],
)
def test_of_a_chapter(chapter, name, typed, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(chapters, "execute")
    assert main(["run", chapter, "-p", name, typed]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1 and not list(tmp_path.iterdir())


def test_every_chapter_is_checked():
    assert sorted(REFUSED) == NAMES
    unchecked = {"recompute", "stored", "output"}
    for name, rows in REFUSED.items():
        assert {row[0] for row in rows} <= chapters.load(name).defaults.keys() - unchecked


@pytest.mark.parametrize("name", NAMES)
def test_the_check_takes_the_defaults(name):
    chapter = chapters.load(name)
    (check,) = [c for c in chapter.notebook.cells if "check" in c.metadata.get("tags", [])]
    exec(check.source, dict(chapter.defaults))
    assert all(map(math.isfinite, [x for x in chapter.defaults.values() if isinstance(x, float)]))

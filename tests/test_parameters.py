"""Values of parameters: as text, and against their defaults."""

import math

import pytest

from hierphase.parameters import check_values, parse_value

DEFAULTS = {"L": 10, "epsilon": 0.5, "name": "tree", "grid": [0.1, 0.2], "n_classes": None}


@pytest.mark.parametrize(
    "text, default, value",
    [
        ("12", 10, 12),
        ("1e-3", 0.5, 1e-3),
        ("cpu", "cuda", "cpu"),
        ("12", "cuda", "12"),
        ("'cpu'", "cuda", "cpu"),
        ("true", False, True),
        ("True", False, True),
        ("null", None, None),
        ("[1, 2.5]", [0.1], [1, 2.5]),
        ("ten", 10, "ten"),
        ('{"a": null}', None, {"a": None}),
        ('{"a": [true, 1.5]}', {}, {"a": [True, 1.5]}),
        ("null", "cuda", None),
        ("None", "cuda", None),
        ("'None'", "cuda", "None"),
        ("{'a': None}", "cuda", "{'a': None}"),
        ("-Infinity", None, -math.inf),
        ("-Infinity", "cuda", "-Infinity"),
    ],
)
def test_values_of_the_command_line(text, default, value):
    assert parse_value(text, default) == value


def test_values_take_the_type_of_the_default():
    assert check_values("chapter tree", DEFAULTS, {"name": None}) == {"name": None}
    values = {"epsilon": 1, "grid": (1, 2), "n_classes": "any"}
    checked = check_values("chapter tree", DEFAULTS, values)
    assert checked == {"epsilon": 1.0, "grid": [1.0, 2.0], "n_classes": "any"}
    assert [type(v) for v in (checked["epsilon"], *checked["grid"])] == [float] * 3


@pytest.mark.parametrize(
    "values, message",
    [
        ({"l": 3}, "unknown parameter of chapter tree 'l' \\(did you mean 'L'\\?\\); known: L"),
        ({"epsilonn": 3}, "did you mean 'epsilon'\\?\\); known: L=10, epsilon=0.5, name='tree'"),
        ({"L": "ten"}, "parameter L of chapter tree is of type int \\(default 10\\); 'ten' is of"),
        ({"L": 1.0}, "1.0 is of type float"),
        ({"L": True}, "True is of type bool"),
        ({"L": None}, "None is of type NoneType"),
        ({"epsilon": "nan"}, "type float \\(default 0.5\\); 'nan' is of type str"),
        ({"grid": 0.1}, "type list \\(default \\[0.1, 0.2\\]\\); 0.1 is of type float"),
        ({"grid": [0.1, "x"]}, "an item of parameter grid of chapter tree .*; 'x' is of type str"),
        ({"name": "caf\udce9"}, r"parameter name of chapter tree: 'caf\\udce9' is not UTF-8"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        check_values("chapter tree", DEFAULTS, values)

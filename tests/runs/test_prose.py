import pytest

from hierphase.analysis.bootstrap import Estimate
from hierphase.runs import prose


def test_an_estimate_is_glued_under_three_names_and_said_in_words(monkeypatch):
    seen = {}
    monkeypatch.setattr(prose, "glue", lambda name, x, display: seen.update({name: x}))
    assert prose.glued("t-star", Estimate(0.4821, 0.4709, 0.4951)) == "0.482 (0.471 to 0.495)"
    assert seen == {"t-star-value": 0.4821, "t-star-low": 0.4709, "t-star-high": 0.4951}
    assert prose.glued("width", Estimate(12, 10, 15), ".1f") == "12.0 (10.0 to 15.0)"
    assert {type(x) for x in seen.values()} == {float}  # as Sphinx wants them


def test_words_of_estimates():
    assert f"{Estimate(1.0, -0.25, 2.5):.1f}" == "1.0 (-0.2 to 2.5)"
    with pytest.raises(ValueError, match="format"):
        f"{Estimate(1.0, 0.0, 2.0):digits}"

"""The figures to play with, in a browser: they move, and show what the package computes."""

import ast
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import test_html

from hierphase.rhm import meanfield
from hierphase.rhm.belief_propagation import BeliefPropagation
from hierphase.rhm.corruption import EpsilonProcess
from hierphase.rhm.model import RandomHierarchyModel
from hierphase.runs import chapters

STATIC = test_html.ROOT / "book" / "_static"
chromium = test_html.chromium
book_extensions = test_html.ROOT / "book" / "_ext"

# A probe runs in the page; what it returns is read from the document.
PROBE = """
const set = (i, value) => {
  const input = document.querySelectorAll("input[type=range]")[i];
  input.value = value;
  input.dispatchEvent(new Event("input"));
};
const texts = (selector) => [...document.querySelectorAll(selector)].map((x) => x.textContent);
const said = () => texts(".play-said")[0];
const shown = (selector) => getComputedStyle(document.querySelector(selector)).display !== "none";
addEventListener("load", () => {
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = JSON.stringify((() => { %s })());
  document.body.append(answer);
});
"""


def play(name, kind, **parameters):
    """What a chapter's cell hands to the page, and the variables it was computed with."""
    variables = {}
    for cell in chapters.load(name).notebook.cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        hands_over = f'data-kind="{kind}"' in cell.source or f'play("{kind}"' in cell.source
        last = tree.body.pop() if hands_over else None
        exec(compile(tree, name, "exec"), variables)
        if "parameters" in cell.metadata.get("tags", []):
            variables |= parameters
        if hands_over:
            html = eval(compile(ast.Expression(last.value), name, "eval"), variables).data
            return html, variables
    raise AssertionError(f"{name} hands nothing to figures of the kind {kind}")


@pytest.fixture
def ask(chromium, tmp_path):
    """Opens a page with such a figure, runs a probe in it, and returns its answer."""

    def ask(html, kind, probe):
        parts = [
            f"<script>{(STATIC / f'{n}.js').read_text()}</script>" for n in ("play", f"play-{kind}")
        ]
        page = tmp_path / "page.html"
        page.write_text(
            f"<!doctype html><meta charset=utf-8><style>{(STATIC / 'play.css').read_text()}</style>"
            f'<body><figure id="fig-play-{kind}"><div><img alt="still"></div><figcaption>Caption'
            f"</figcaption></figure>{html}{''.join(parts)}<script>{PROBE % probe}</script>"
        )
        opened = test_html.open_page(chromium, page.as_uri(), tmp_path)
        assert opened.console == [] and opened.requests == []
        return json.loads(re.search('<pre id="answer">(.*?)</pre>', opened.dom, re.DOTALL)[1])

    return ask


@pytest.fixture(scope="module")
def tree():
    return play("bp-theory", "tree", L=3, n_rules=2, n_data=2, n_epsilon=3)


@pytest.fixture(scope="module")
def phases():
    return play("bp-theory", "phases", L=3, n_rules=2, n_data=2, n_epsilon=3)


@pytest.fixture(scope="module")
def times():
    return play("imagenet-transition", "times", preset="digits")


@pytest.mark.parametrize("position", [0, 17, 28, 35, 40])
def test_tree_shows_exact_beliefs(ask, tree, position):
    said, nodes, mark = ask(
        tree[0],
        "tree",
        f"set(0, {position}); return [said(), texts('.play-node'), texts('.play-mark-text')]",
    )
    epsilon = position / 40
    rhm = RandomHierarchyModel(v=16, m=4, s=2, L=4, seed=0)
    datum = rhm.sample(1, seed=0)
    posterior = BeliefPropagation(rhm)(EpsilonProcess(16).beliefs(datum[0], epsilon))
    known = posterior.probability_of(datum)[0].numpy()
    numbers = [float(x) for x in re.findall(r"\d\.\d{3}", said)]
    np.testing.assert_allclose(numbers, [epsilon, *known[::-1]], atol=6e-4)
    assert mark == [f"ε* = {meanfield.critical_epsilon(16, 4, 2):.3f}"]

    expected = []
    for level in range(4, -1, -1):
        for symbol, belief in zip(
            datum[level][0].tolist(), posterior.marginals[level][0], strict=True
        ):
            best = "" if belief[symbol] > belief.max() - 1e-4 else f"{chr(97 + belief.argmax())}?"
            expected.append((chr(97 + symbol), float(belief[symbol]), best))
    assert len(nodes) == len(expected) == 31
    for text, (letter, belief, best) in zip(nodes, expected, strict=True):
        shown = text.split()
        assert (shown[0], "".join(shown[2:])) == (letter, best)
        assert abs(float(shown[1]) - belief) < 0.0052


def test_mean_field_of_the_page_is_that_of_the_package(ask, phases):
    points = [
        (float(epsilon), v, m, s, L)
        for v, m, s, L in [
            (32, 8, 2, 10),
            (32, 20, 2, 8),
            (16, 4, 2, 6),
            (8, 6, 3, 5),
            (3, 2, 2, 1),
        ]
        for epsilon in np.linspace(0.01, 1, 12)
    ]
    found = ask(
        phases[0], "phases", f"return {json.dumps(points)}.map((x) => play.meanfield.profile(...x))"
    )
    for point, both in zip(points, found, strict=True):
        epsilon, v, m, s, L = point
        up, _ = meanfield.beliefs(meanfield.leaf_belief(epsilon, v), v, m, s, L)
        np.testing.assert_allclose(both["p"], up, rtol=0, atol=1e-6)
        np.testing.assert_allclose(both["pi"], meanfield.profile(*point), rtol=0, atol=1e-6)


@pytest.mark.parametrize("m, epsilon", [(8, 0.7), (3, 0.35), (18, 0.1), (8, 0), (8, 1)])
def test_phase_diagram_shows_a_point(ask, phases, m, epsilon):
    said, levels, mark = ask(
        phases[0],
        "phases",
        f"set(0, {m}); set(1, {epsilon}); return [said(), "
        "document.querySelectorAll('svg')[1].getAttribute('aria-label'), texts('.play-mark-text')]",
    )
    profile, star = meanfield.profile(epsilon, 32, m, 2, 3), meanfield.critical_epsilon(32, m, 2)
    numbers = [float(x) for x in re.findall(r"\d\.\d{3}", said)]
    there = [] if star is None else [star]
    expected = [epsilon, meanfield.slopes(32, m, 2)[0], *there, profile[-1], profile[0]]
    np.testing.assert_allclose(numbers, expected, atol=6e-4)
    assert f"m = {m}," in said
    assert mark == [f"ε* = {x:.3f}" for x in there]
    shown = [float(x) for x in re.findall(r"\d\.\d{3}", levels)]
    np.testing.assert_allclose(shown, profile, atol=6e-4)


def test_pointer_picks_a_point(ask, phases):
    values = ask(
        phases[0],
        "phases",
        """const map = document.querySelector(".play-map"), box = map.getBoundingClientRect();
        const image = map.querySelector("image").getBoundingClientRect();
        return [0.26, 0.76].map((part) => {
          map.dispatchEvent(new PointerEvent("pointermove", { pointerType: "mouse", bubbles: true,
            clientX: image.left + part * image.width, clientY: image.top + part * image.height }));
          return [...document.querySelectorAll("input")].map((x) => Number(x.value));
        })""",
    )
    count = 1 + int(phases[1]["rules"][-1]) - 2
    assert [m for m, _ in values] == [2 + int(part * count) for part in (0.26, 0.76)]
    np.testing.assert_allclose([epsilon for _, epsilon in values], [0.74, 0.24], atol=0.006)


def test_images_at_every_time(ask, times):
    html, variables = times
    found = ask(
        html,
        "times",
        """const labels = (of) => texts(of + " + .play-label");
        const all = () => [said(), labels(".play-before"), labels(".play-after"),
          labels(".play-changed .play-after").length, texts(".play-mark-text")[0]];
        const count = () => Number(document.querySelector("input[type=range]").max) + 1;
        return [0, 1].map((world) => {
          document.querySelectorAll("input[type=radio]")[world].click();
          return Array.from({ length: count() }, (_, k) => { set(0, k); return all(); });
        })""",
    )
    for name, shown in zip(("data", "flat"), found, strict=True):
        world = SimpleNamespace(result=variables[name].result, star=variables[name].fall.star)
        first = world.result.top_class.isel(rank=0).transpose("time", "image").values.astype(int)
        names = world.result.class_name.values
        assert len(shown) == world.result.sizes["time"]
        for k, (said, before, after, n_changed, mark) in enumerate(shown):
            assert before == names[first[0, :10]].tolist()
            assert after == names[first[k, :10]].tolist()
            changed = int((first[k, :10] != first[0, :10]).sum())
            assert n_changed == changed and f"{changed} of {len(before)} shown" in said
            numbers = [float(x) for x in re.findall(r"\d\.\d{3}", said)]
            kept = (first[k] == first[0]).mean()
            np.testing.assert_allclose(numbers[:2], [world.result.time[k], kept], atol=6e-4)
            star = world.star
            assert mark == f"t*/T = {star.value:.3f} ({star.low:.3f} to {star.high:.3f})"


@pytest.mark.parametrize("kind", ["tree", "phases", "times"])
def test_the_picture_is_for_paper(ask, kind, request):
    """On the screen the figure to play with, in print the still one; on narrow screens it fits."""
    screen, paper, wide = ask(
        request.getfixturevalue(kind)[0],
        kind,
        """const both = () => [shown(".play"), shown("figure > div:last-of-type")];
        const screen = both(), root = document.querySelector(".play");
        root.style.width = "340px";
        const wide = root.scrollWidth;
        for (const { media } of document.styleSheets[0].cssRules)
          if (media) media.mediaText = { print: "screen", screen: "print" }[media.mediaText];
        return [screen, both(), wide]""",
    )
    assert screen == [True, False]
    assert paper == [False, True]
    assert wide <= 340


def test_only_pages_with_such_figures_load_scripts(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(book_extensions), *sys.path])
    import play as extension

    loaded = []
    app = SimpleNamespace(
        add_css_file=loaded.append, add_js_file=lambda name, loading_method: loaded.append(name)
    )
    extension.add_scripts(app, "a", "page.html", {"body": "<p>play</p>"}, None)
    assert loaded == []
    body = '<script type="application/json" class="play" data-kind="tree" data-figure="f">'
    extension.add_scripts(app, "a", "page.html", {"body": body}, None)
    assert loaded == ["play.css", "play.js", "play-tree.js"]
    assert all((STATIC / name).is_file() for name in loaded)

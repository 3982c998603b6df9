// The phase diagram of mean-field theory, and the curves of the point that is chosen in it.
"use strict";
play.meanfield = {
  /** F(p): belief in the true symbol of a parent from that of each child. */
  upward(p, v, m, s) {
    const b = (m - 1) / (v ** s - 1), f = (m * v - 1) / (v ** s - 1), w = p ** s;
    return (w + b * (1 - w)) / (w + f * (1 - w));
  },

  /** Upward beliefs p and marginals pi of levels 0 (leaves) to L (class) at noise epsilon. */
  profile(epsilon, v, m, s, L) {
    const p = [1 - epsilon * (1 - 1 / v)];
    for (let level = 0; level < L; level++) p.push(play.meanfield.upward(p[level], v, m, s));
    let q = 1 / v;
    const pi = [];
    for (let level = L; level >= 0; level--) {
      const right = p[level] * q;
      pi.unshift(right / (right + ((1 - p[level]) * (1 - q)) / (v - 1)));
      if (level === 0) break;
      const w = p[level - 1] ** (s - 1), c = (m - q) / (v ** s - 1);
      q = (q * w + c * (1 - w)) / (q * w + c * (v - w));
    }
    return { p, pi };
  },
};

play.kinds.phases = (root, data) => {
  const { v, s, L, stars, slopes } = data;
  const { upward, profile } = play.meanfield;
  const first = data.m[0], last = data.m.at(-1);
  const tints = [[0, 34, 78], [124, 123, 120], [254, 232, 56]]; // cividis: ends and middle
  let m = data.start.m, epsilon = data.start.epsilon, width = 0;

  /** The class's probability over the plane as a picture, a pixel for each m and noise. */
  const picture = (() => {
    const rows = 100, canvas = play.element("canvas", { width: data.m.length, height: rows });
    const pen = canvas.getContext("2d");
    data.m.forEach((each, i) => {
      for (let row = 0; row < rows; row++) {
        const known = 2 * profile(1 - (row + 0.5) / rows, v, each, s, L).pi[L];
        const half = Math.min(1, Math.floor(known));
        const mix = tints[half].map((x, j) => Math.round(x + (tints[half + 1][j] - x) * (known - half)));
        pen.fillStyle = `rgb(${mix})`;
        pen.fillRect(i, row, 1, 1);
      }
    });
    return canvas.toDataURL();
  })();

  const of = (value) => stars[value - first] ?? null;
  const marked = () => (of(m) === null ? [] : [{ at: of(m), text: `ε* = ${of(m).toFixed(3)}` }]);
  const said = play.said();
  const rules = play.slider("Rules m", { min: first, max: last, step: 1, value: m }, (x) => { m = x; draw(); });
  const noise = play.slider(
    "Noise ε", { min: 0, max: 1, step: 0.005, value: epsilon, marks: marked() }, (x) => { epsilon = x; draw(); }
  );
  const [map, curves, step] = [0, 1, 2].map(() => play.drawing());
  map.classList.add("play-map");
  const key = play.element("p", { class: "play-key" });
  key.innerHTML = `Left: probability of the true class, from <b>0</b> (dark) to <b>1</b> (bright), ${L} levels; line: ε*
    of infinite depth; dotted: F′(1) = 1. Click it or move the sliders. Right: <b class="play-true">π, from all
    evidence (solid)</b> and <b class="play-other">p, from below (dashed)</b>; and how F takes p up the levels.`;
  root.append(
    rules.box, noise.box, said,
    play.element("div", { class: "play-row" }, map, play.element("div", { class: "play-stack" }, curves, step)), key
  );

  let plane;
  function pick(event) {
    const box = map.getBoundingClientRect(), scale = map.viewBox.baseVal.width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const clip = (at, low, high) => Math.min(high, Math.max(low, at));
    m = clip(Math.round(first - 0.5 + ((x - plane.left) / plane.width) * data.m.length), first, last);
    epsilon = clip(Math.round((1 - (y - plane.top) / plane.height) * 200) / 200, 0, 1);
    rules.input.value = m;
    noise.input.value = epsilon;
    draw();
  }
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    pick(event);
  });
  map.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" || event.buttons) pick(event);
  });

  function drawMap(wide, high) {
    plane = { left: 44, top: 10, width: wide - 54, height: high - 54 };
    const axes = play.axes({
      ...plane, x: [first - 0.5, last + 0.5], y: [0, 1], xlabel: "rules per symbol m", ylabel: "noise ε",
      xticks: data.m.filter((each) => each % 4 === 0), yticks: [0, 0.2, 0.4, 0.6, 0.8, 1],
    });
    const { X, Y } = axes;
    const line = data.m.filter((each) => of(each) !== null).map((each) => [each, of(each)]);
    const one = first + (1 - slopes[0]) / (slopes[1] - slopes[0]);
    play.fill(map, wide, high, "Phase diagram: probability of the true class against m and the noise",
      `<image href="${picture}" x="${plane.left}" y="${plane.top}" width="${plane.width}" height="${plane.height}"
        preserveAspectRatio="none"/>${axes.frame}${play.path(axes, line, 'class="play-star"')}
      ${one < last ? play.path(axes, [[one, 0], [one, 1]], 'class="play-star" stroke-dasharray="2 4"') : ""}
      <path class="play-cross" d="M${X(m)} ${plane.top}v${plane.height}M${plane.left} ${Y(epsilon)}h${plane.width}"/>
      <circle class="play-point" cx="${X(m)}" cy="${Y(epsilon)}" r="7"/>`);
  }

  function drawCurves(wide, high, { p, pi }) {
    const axes = play.axes({
      width: wide - 54, height: high - 54, x: [0, L], y: [0, 1], xlabel: "level (0: leaves)",
      ylabel: "probability", xticks: pi.map((_, level) => level).filter((level) => level % 2 === 0), yticks: [0, 0.5, 1],
    });
    const dots = pi.map((y, x) => `<circle class="play-fill-true" cx="${axes.X(x)}" cy="${axes.Y(y)}" r="3.5"/>`);
    play.fill(curves, wide, high, `Probability of the true symbol, level by level: ${pi.map((x) => x.toFixed(3)).join(", ")}`,
      axes.frame + play.path(axes, [...p.entries()], 'class="play-curve-other"') +
      play.path(axes, [...pi.entries()], 'class="play-curve-true"') + dots.join(""));
  }

  function drawStep(wide, high, { p }) {
    const axes = play.axes({
      width: wide - 54, height: high - 54, x: [0, 1], y: [0, 1], xlabel: "belief of the children p",
      ylabel: "F(p)", xticks: [0, 0.5, 1], yticks: [0, 0.5, 1],
    });
    const F = Array.from({ length: 101 }, (_, i) => [i / 100, upward(i / 100, v, m, s)]);
    const stairs = p.slice(0, -1).flatMap((x, i) => [[x, i ? x : 0], [x, p[i + 1]], [p[i + 1], p[i + 1]]]);
    play.fill(step, wide, high, `The map F and its iteration from p = ${p[0].toFixed(3)} to ${p[L].toFixed(3)}`,
      axes.frame + play.path(axes, [[0, 0], [1, 1]], 'class="play-diagonal"') +
      play.path(axes, F, 'class="play-curve-true"') + play.path(axes, stairs, 'class="play-stairs"') +
      `<circle class="play-start" cx="${axes.X(p[0])}" cy="${axes.Y(0)}" r="4"/>`);
  }

  function draw() {
    const found = profile(epsilon, v, m, s, L), narrow = width < 520;
    const left = narrow ? width : Math.round(0.54 * width), right = narrow ? width : width - left - 8;
    drawMap(left, narrow ? 280 : 392);
    drawCurves(right, 190, found);
    drawStep(right, 202, found);
    noise.marks(marked());
    rules.input.setAttribute("aria-valuetext", `m = ${m}`);
    noise.input.setAttribute("aria-valuetext", `ε = ${epsilon.toFixed(3)}`);
    const star = of(m) === null ? "no transition" : `ε* = ${of(m).toFixed(3)}`;
    said.textContent = `m = ${m}, ε = ${epsilon.toFixed(3)}: F′(1) = ${slopes[m - first].toFixed(3)}, ${star}. ` +
      `Probability of the true class ${found.pi[L].toFixed(3)}, of a true leaf ${found.pi[0].toFixed(3)}.`;
  }
  play.watch(root, (now) => { width = now; draw(); });
};

// A tree with the exact beliefs of every node, at the noise of a slider.
"use strict";
play.kinds.tree = (root, data) => {
  const { v, s, epsilons, symbols, beliefs, mean, theory, star } = data;
  const L = symbols.length - 1;
  const letter = (symbol) => String.fromCharCode(97 + symbol);
  const name = (level) => (level === L ? "class" : level ? `level ${level}` : "leaves");
  const short = (x) => (x >= 0.995 ? "1.0" : x.toFixed(2).slice(1));
  const unit = 10000; // beliefs are stored as integers
  let width = 0, at = data.start;

  const svg = play.drawing(), said = play.said();
  const spacing = epsilons[1] - epsilons[0];
  const marks = star === null ? [] : [{ at: star / spacing, text: `ε* = ${star.toFixed(3)}` }];
  const slider = play.slider(
    "Noise ε", { min: 0, max: epsilons.length - 1, step: 1, value: at, marks }, (value) => { at = value; draw(); }
  );
  const key = play.element("p", { class: "play-key" });
  key.innerHTML = `Boxes: the belief in each of the ${v} symbols, the <b class="play-true">true one</b> in colour, its
    letter above, its probability below and as the tint. A <b class="play-other">thick frame</b> and a letter with a question mark:
    another symbol is likelier. Right: mean of each level; tick: mean-field theory.`;
  root.append(slider.box, said, svg, key);

  /** One node, its upper end at y. */
  function node(x, y, half, truth, belief) {
    const best = belief.indexOf(Math.max(...belief));
    const wrong = belief[best] > belief[truth];
    const bar = (2 * half) / v, height = 24, foot = y + 40;
    const bars = belief.map((b, i) => {
      const look = i === truth ? "play-fill-true" : wrong && i === best ? "play-fill-other" : "play-fill-rest";
      return `<rect class="${look}" x="${(x - half + i * bar).toFixed(2)}" width="${(0.85 * bar).toFixed(2)}"
        y="${(foot - (height * b) / unit).toFixed(2)}" height="${((height * b) / unit).toFixed(2)}"/>`;
    });
    return `<g class="play-node"><rect class="${wrong ? "play-frame-other" : "play-frame"}" x="${x - half - 1}"
      y="${foot - height - 1}" width="${2 * half + 2}" height="${height + 2}"
      style="fill-opacity: ${(0.4 * belief[truth]) / unit}"/>${bars.join("")}
      <text class="play-true" x="${x}" y="${y + 11}" text-anchor="middle">${letter(truth)}</text>
      <text class="play-small" x="${x}" y="${foot + 12}" text-anchor="middle">${short(belief[truth] / unit)}</text>
      ${wrong ? `<text class="play-other play-small" x="${x}" y="${foot + 23}" text-anchor="middle">${letter(best)}?</text>` : ""}</g>`;
  }

  function draw() {
    const beside = width < 520 ? 56 : 130, row = 84;
    const slot = (width - beside) / symbols[0].length;
    const half = Math.min(16, slot / 2 - 2);
    let edges = "", content = "";
    for (let level = L; level >= 0; level--) {
      const y = (L - level) * row;
      const place = (i, l) => (i + 0.5) * s ** l * slot;
      symbols[level].forEach((truth, i) => {
        content += node(place(i, level), y, half, truth, beliefs[at][level][i]);
        const up = Math.floor(i / s);
        if (level < L)
          edges += `<path class="play-edge" d="M${place(up, level + 1)} ${y - row + 66}L${place(i, level)} ${y}"/>`;
      });
      const left = width - beside + 8, full = beside - 14, m = mean[at][level];
      content += `<text x="${left}" y="${y + 11}">${name(level)}</text>
        <rect class="play-frame" x="${left}" y="${y + 16}" width="${full}" height="9"/>
        <rect class="play-fill-true" x="${left}" y="${y + 16}" width="${(full * m).toFixed(2)}" height="9"/>
        <path class="play-tick" d="M${(left + full * theory[at][level]).toFixed(2)} ${y + 13}v15"/>
        <text class="play-mean" x="${left}" y="${y + 40}">${m.toFixed(3)}</text>`;
    }
    const means = mean[at].map((m, level) => `${name(level)} ${m.toFixed(3)}`).reverse().join(", ");
    const values = `ε = ${epsilons[at].toFixed(3)}`;
    slider.input.setAttribute("aria-valuetext", values);
    said.textContent = `${values}. Mean probability of the true symbol: ${means}.`;
    play.fill(svg, width, (L + 1) * row - 18, `The tree at ${said.textContent}`, edges + content);
  }
  play.watch(root, (now) => { width = now; draw(); });
};

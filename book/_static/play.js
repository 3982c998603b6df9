// Figures to play with. A script of type application/json and class "play" names a static figure of
// the page and holds the numbers; the function of its kind draws them into a box, which takes the
// place of the static picture on the screen. On paper, and without JavaScript, the picture stays.
"use strict";
window.play = {
  kinds: {},

  /** An HTML element with attributes and children. */
  element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  },

  /** An empty drawing with a text for those who do not see it. */
  drawing() {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("role", "img");
    return svg;
  },

  /** Fill a drawing of this size, in pixels. */
  fill(svg, width, height, label, content) {
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", label);
    svg.innerHTML = content;
  },

  /** A labelled slider; marks on its track are {at, low, high, text}, in its units. */
  slider(label, { min, max, step, value, marks = [] }, changed) {
    const input = play.element("input", { type: "range", min, max, step, value });
    const track = play.element("span", { class: "play-track" });
    const part = (x) => Math.min(1, Math.max(0, (x - min) / Math.max(input.max - min, 1e-9)));
    const place = (x) => `calc(8px + (100% - 16px) * ${part(x)})`;
    const show = (given) => track.replaceChildren(...given.flatMap((mark) => {
      const line = play.element("span", { class: "play-mark" });
      line.style.left = place(mark.at);
      const text = play.element("span", { class: "play-mark-text" }, mark.text);
      text.style.left = place(mark.at);
      text.style.transform = `translateX(-${100 * part(mark.at)}%)`;
      const band = play.element("span", { class: "play-band" });
      band.style.left = place(mark.low ?? mark.at);
      band.style.width = `calc((100% - 16px) * ${part(mark.high ?? mark.at) - part(mark.low ?? mark.at)})`;
      return [band, line, text];
    }));
    show(marks);
    input.addEventListener("input", () => changed(Number(input.value)));
    const box = play.element("label", { class: "play-slider" }, play.element("span", {}, label));
    box.append(play.element("span", { class: "play-rail" }, input, track));
    return { box, input, marks: show };
  },

  /** Text that is read out when it changes. */
  said() {
    return play.element("output", { class: "play-said", "aria-live": "polite" });
  },

  /** Axes of a small chart: maps of x and y to pixels, and the drawn frame with its labels. */
  axes({ left = 44, top = 10, width, height, x, y, xlabel, ylabel, xticks, yticks, digits = 1 }) {
    const X = (at) => left + ((at - x[0]) / (x[1] - x[0])) * width;
    const Y = (at) => top + height - ((at - y[0]) / (y[1] - y[0])) * height;
    const ticks = [
      ...xticks.map((at) => `<path class="play-line" d="M${X(at)} ${top + height}v4"/>
        <text x="${X(at)}" y="${top + height + 16}" text-anchor="middle">${at}</text>`),
      ...yticks.map((at) => `<path class="play-line" d="M${left} ${Y(at)}h-4"/>
        <text x="${left - 7}" y="${Y(at) + 4}" text-anchor="end">${at.toFixed(digits)}</text>`),
    ];
    const frame = `<path class="play-line" d="M${left} ${top}v${height}h${width}"/>${ticks.join("")}
      <text x="${left + width / 2}" y="${top + height + 33}" text-anchor="middle">${xlabel}</text>
      <text transform="translate(12 ${top + height / 2}) rotate(-90)" text-anchor="middle">${ylabel}</text>`;
    return { X, Y, frame };
  },

  /** A path through points [x, y] of such axes. */
  path({ X, Y }, points, look) {
    return `<path ${look} fill="none" d="M${points.map(([x, y]) => `${X(x).toFixed(2)} ${Y(y).toFixed(2)}`).join("L")}"/>`;
  },

  /** Draw now and whenever the width changes. */
  watch(root, draw) {
    let width = 0;
    const look = () => {
      const now = Math.floor(root.clientWidth);
      if (now && now !== width) draw((width = now));
    };
    new ResizeObserver(() => requestAnimationFrame(look)).observe(root);  // not within: it may resize
    look();
  },

  start() {
    for (const script of document.querySelectorAll("script.play")) {
      const figure = document.getElementById(script.dataset.figure);
      const kind = play.kinds[script.dataset.kind];
      if (!figure || !kind) continue;
      const root = play.element("div", { class: `play play-${script.dataset.kind}`, role: "group" });
      root.setAttribute("aria-label", script.dataset.label);
      figure.prepend(root);
      figure.classList.add("play-on");
      kind(root, JSON.parse(script.textContent));
    }
  },
};
document.addEventListener("DOMContentLoaded", play.start);

// Images that were noised up to a time and denoised, at the time of a slider; two worlds to choose from.
"use strict";
play.kinds.times = (root, { worlds }) => {
  let world = worlds[0];
  const said = play.said(), strip = play.element("div", { class: "play-strip" });
  const slider = play.slider(
    "Reversal time t/T", { min: 0, max: 1, step: 1, value: 0 }, () => draw()
  );
  const group = `play-world-${root.parentElement.id}`;
  const choice = play.element("fieldset", { class: "play-choice" }, play.element("legend", {}, "Images"));
  worlds.forEach((one, i) => {
    const input = play.element("input", { type: "radio", name: group, value: i });
    input.checked = i === 0;
    input.addEventListener("change", () => enter(one));
    choice.append(play.element("label", {}, input, ` ${one.name}`));
  });
  root.append(choice, slider.box, said, strip);

  /** The index of a time, between those that are stored too. */
  function index(t) {
    const next = world.times.findIndex((x) => x >= t);
    if (next <= 0) return next < 0 ? world.times.length - 1 : 0;
    const [a, b] = world.times.slice(next - 1, next + 1);
    return next - 1 + (t - a) / (b - a);
  }

  /** Show another world, at the stored time that is nearest to the one shown. */
  function enter(next, t = world.times[Number(slider.input.value)]) {
    world = next;
    const { value, low, high } = world.star;
    slider.input.max = world.times.length - 1;
    slider.input.value = Math.round(index(t));
    slider.marks([{
      at: index(value), low: index(low), high: index(high),
      text: `t*/T = ${value.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})`,
    }]);
    strip.replaceChildren(...world.labels[0].map((first, i) => {
      const tile = (extra) => {
        const picture = play.element("span", { class: `play-picture ${extra}`, role: "img" });
        picture.style.backgroundImage = `url(${world.sprite})`;
        picture.style.backgroundSize = `${world.times.length * 100}% ${world.labels[0].length * 100}%`;
        return picture;
      };
      const text = () => play.element("span", { class: "play-label" });
      const column = play.element("div", { class: "play-column" }, tile("play-before"), text(), tile("play-after"), text());
      place(column.children[0], 0, i, `Image ${i + 1}, as it went in: ${first}`);
      column.children[1].textContent = first;
      return column;
    }));
    draw();
  }

  function place(picture, time, i, label) {
    const part = (k, n) => (n > 1 ? (100 * k) / (n - 1) : 0);
    picture.style.backgroundPosition = `${part(time, world.times.length)}% ${part(i, world.labels[0].length)}%`;
    picture.setAttribute("aria-label", label);
  }

  function draw() {
    const k = Number(slider.input.value);
    let changed = 0;
    [...strip.children].forEach((column, i) => {
      const [before, now] = [world.labels[0][i], world.labels[k][i]];
      const [, , picture, text] = column.children;
      column.classList.toggle("play-changed", before !== now);
      changed += before !== now;
      place(picture, k, i, `Image ${i + 1}, as it came back: ${now}${before === now ? "" : ", changed"}`);
      text.textContent = now;
    });
    const [value, low, high] = world.kept[k].map((x) => x.toFixed(3));
    const time = `t/T = ${world.times[k].toFixed(3)}`;
    slider.input.setAttribute("aria-valuetext", time);
    said.textContent = `${time}: ${changed} of ${strip.children.length} shown have changed class. ` +
      `Of all ${world.n}, ${value} keep it (95% interval ${low} to ${high}).`;
  }
  enter(world, world.star.value);
};

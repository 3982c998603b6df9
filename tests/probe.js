// What a reader would stumble over on this page, measured in the browser; told to the frame around it.
"use strict";
const found = [];

const name = (e) => `${e.tagName.toLowerCase()}.${e.className} ${e.textContent.trim().slice(0, 30)}`;
const fault = (what, elements) => {
  if (elements.length) found.push(`${what}: ${name(elements[0])} (${elements.length})`);
};
const all = (selector) => [...document.querySelectorAll(selector)];
const shown = (e) => e.getClientRects().length && e.checkVisibility({visibilityProperty: true});

function measure() {
  const root = document.scrollingElement;
  if (root.scrollWidth > root.clientWidth + 1) {
    const edge = (e) => e.getBoundingClientRect().right > root.clientWidth + 1;
    fault("the page scrolls sideways", [...all("article *").filter(edge), root]);
  }
  if (innerWidth >= 1000) {
    fault("code is cut", all("article pre").filter((e) => shown(e) && e.scrollWidth > e.clientWidth + 1));
  }
  const said = (e) => e.getAttribute("aria-label") || "";
  const controls = all("button, summary").filter(shown);
  fault("nothing names it", controls.filter((e) => !(e.textContent.trim() || said(e) || e.title)));
  fault("its name is not what it shows", controls.filter((e) => {
    const text = e.innerText.replace(/\s+/g, " ").trim();
    return text && said(e) && !said(e).toLowerCase().includes(text.toLowerCase());
  }));
  const images = all("article img:not(.toggler)").filter(shown);  // the theme's plus signs
  const vector = (e) => /\.svg$/.test(e.src);
  fault("a figure is blurred", images.filter((e) => !vector(e) && e.naturalWidth < 2 * e.width - 1));

  document.documentElement.dataset.theme = "dark";
  const style = (e) => getComputedStyle(e);
  const grounds = (e) => style(e).backgroundColor !== "rgba(0, 0, 0, 0)";
  fault("a figure has a ground in the dark", images.filter(grounds));
  const lines = images.filter((e) => !e.closest(".pictures"));
  fault("lines are black in the dark", lines.filter((e) => !style(e).filter.includes("invert")));

  const folded = all("article details.hide");
  const button = document.querySelector("button.show-code");
  if (folded.length) {
    if (button) button.click();
    fault("the switch does not open it", folded.filter((e) => !e.open));
    if (button) button.click();
    fault("the switch does not close it", button ? folded.filter((e) => e.open) : []);
  }
}

addEventListener("load", async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  setTimeout(() => {
    measure();
    parent.postMessage(JSON.stringify([innerWidth, found]), "*");
  }, 500);
});

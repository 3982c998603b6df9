// What the theme leaves out for readers: names of its buttons, and a switch that opens all code.
"use strict";

function nameButtons() {
  // A name that differs from the text of a button cannot be spoken to a computer.
  for (const button of document.querySelectorAll(".search-button-field, details.hide > summary")) {
    button.removeAttribute("aria-label");
  }
  for (const title of document.querySelectorAll(".theme-switch-button title")) {
    title.parentElement.removeAttribute("aria-labelledby");
    title.parentElement.setAttribute("aria-hidden", "true");
    title.remove();
  }
  for (const summary of document.querySelectorAll("li.has-children > details > summary")) {
    const link = summary.closest("li").querySelector("a");
    summary.setAttribute("aria-label", "Pages of: " + link.textContent.trim());
  }
  // A list whose children are bibliography entries is none to a screen reader.
  for (const list of document.querySelectorAll(".citation-list")) list.removeAttribute("role");
}

function addSwitch() {
  const folded = document.querySelectorAll("article details.hide");
  const heading = document.querySelector("article h1");
  if (!folded.length || !heading) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "show-code";
  button.textContent = "Show all code";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(open));
    for (const details of folded) details.open = open;
  });
  heading.after(button);
}

document.addEventListener("DOMContentLoaded", () => {
  addSwitch();
  nameButtons();
});
window.addEventListener("load", () => setTimeout(nameButtons));  // icons are drawn by then

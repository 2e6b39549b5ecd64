"use strict";
// Pause and play: one button for every clip. Who asked for less motion gets static clips, and may start them.
const root = document.documentElement;
const button = document.getElementById("motion");
const reduced = window.matchMedia("(prefers-reduced-motion: reduce)");
let moving = !reduced.matches;
function show() {
  root.classList.toggle("playing", moving);
  root.classList.toggle("paused", !moving);
  button.textContent = moving ? "Pause all clips" : "Play all clips";
}
button.addEventListener("click", () => { moving = !moving; show(); });
reduced.addEventListener("change", () => { moving = !reduced.matches; show(); });
button.hidden = false;
show();

// A box that is wider than the window says so.
function hints() {
  for (const box of document.querySelectorAll(".scroll")) {
    box.previousElementSibling.hidden = box.scrollWidth <= box.clientWidth + 1;
  }
}
window.addEventListener("resize", hints);
document.addEventListener("toggle", hints, true);
hints();

// Print shows what is folded; afterwards it is folded again.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) { one.open = true; }
});
window.addEventListener("afterprint", () => {
  for (const one of opened) { one.open = false; }
});

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

// Tables sort by a click on a column's head, or by its keys: up, down, then as they were. Rows that failed and values that
// are missing stay below. A column is one of numbers where it has a cell of that class.
const words = new Intl.Collator("en", { numeric: true });
function valueOf(row, column, numeric) {
  const cell = row.cells[column];
  if (!cell || cell.colSpan > 1) { return null; }
  const own = [...cell.childNodes].filter(part => !part.classList?.contains("state"));  // without seed and status
  const text = own.map(part => part.textContent).join("").trim();
  const value = numeric ? parseFloat(text.replaceAll(",", "")) : text;
  return value === "" || Number.isNaN(value) ? null : value;
}
function sorted(rows, column, sign) {
  const numeric = rows.some(row => row.cells[column]?.classList.contains("number"));
  const values = new Map(rows.map(row => [row, valueOf(row, column, numeric)]));
  return [...rows].sort((one, other) => {
    const [a, b] = [values.get(one), values.get(other)];
    if (a === null || b === null) { return (a === null) - (b === null); }
    return sign * (numeric ? a - b : words.compare(a, b));
  });
}
function sort(table, rows, column) {
  const heads = table.tHead.rows[0].cells;
  const next = { ascending: "descending", descending: null }[heads[column].getAttribute("aria-sort")];
  const direction = next === undefined ? "ascending" : next;
  for (const head of heads) { head.removeAttribute("aria-sort"); }
  if (direction) { heads[column].setAttribute("aria-sort", direction); }
  table.tBodies[0].append(...(direction ? sorted(rows, column, direction === "ascending" ? 1 : -1) : rows));
}
for (const table of document.querySelectorAll(".scroll > table")) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 2) { continue; }
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    if (!head.textContent.trim()) { continue; }
    const by = document.createElement("button");
    by.type = "button";
    by.className = "sort";
    by.append(...head.childNodes);
    by.addEventListener("click", () => sort(table, rows, column));
    head.append(by);
  }
}
document.getElementById("sorting").hidden = false;

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

"use strict";
for (const table of document.querySelectorAll("table.trajectories")) {
  const id = table.id.replace(/:table$/, "");
  const body = table.tBodies[0];
  const search = document.querySelector(`[data-filter="${id}"]`);
  const side = document.querySelector(`select[data-side="${id}"]`);
  const count = document.querySelector(`[data-count="${id}"]`);
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !(row.textContent.toLowerCase().includes(wanted) && (!side.value || row.dataset.side === side.value));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${body.rows.length} trajectories`;
  };
  search.addEventListener("input", filter);
  side.addEventListener("change", filter);
  filter();
  for (const button of table.querySelectorAll(".sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const column = head.cellIndex;
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        return button.dataset.kind === "number" ? Number(cell.dataset.value) : cell.textContent;
      };
      const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
      const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * compare(key(a), key(b)));
      body.append(...rows);
    });
  }
}

const viewer = document.getElementById("viewer");
const text = document.getElementById("viewer-text");
const status = document.getElementById("viewer-status");
const all = JSON.parse(document.getElementById("tokens").textContent);
let tokens = null;
let at = -1;

// Line breaks, marks of direction and the like would otherwise be invisible or turn the line around.
const spelt = (token) => JSON.stringify(token).replace(/\p{C}/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
const level = (value, limits) => limits.filter((limit) => value >= limit).length;
const walk = (to) => {
  if (!tokens || !tokens.text.length) return;
  if (at >= 0) text.children[at].classList.remove("at");
  at = Math.max(0, Math.min(tokens.text.length - 1, to));
  const span = text.children[at];
  span.classList.add("at");
  span.scrollIntoView({ block: "nearest" });
  status.textContent = `token ${at + 1} of ${tokens.text.length}: ${spelt(tokens.text[at])}, rank ${tokens.rank[at]}, ` +
    `surprisal ${tokens.surprisal[at]} nats, entropy ${tokens.entropy[at]} nats`;
};
text.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  walk(at + step);
});
text.addEventListener("click", (event) => {
  const n = [...text.children].indexOf(event.target);
  if (n >= 0) walk(n);
});
document.addEventListener("click", (event) => {
  const button = event.target.closest(".open");
  if (!button) return;
  tokens = all[button.dataset.tokens];
  at = -1;
  const row = button.closest("tr");
  const total = Number(row.cells[5].dataset.value);
  const part = tokens.text.length < total ? `, the first ${tokens.text.length} of ${total} tokens` : "";
  document.getElementById("viewer-title").textContent = `${row.cells[0].textContent}: ${button.textContent}${part}`;
  status.textContent = "Arrow keys walk through the tokens; a click shows one.";
  text.replaceChildren(...tokens.text.map((token, n) => {
    const span = document.createElement("span");
    span.textContent = token;
    span.className = `s${level(tokens.surprisal[n], [0.5, 1, 2, 4, 8])} r${level(tokens.rank[n], [2, 11, 101])}`;
    return span;
  }));
  viewer.showModal();
  text.focus();
});

"use strict";
const clearFilters = (table) => {
  const id = table.id.replace(/:table$/, "");
  const search = document.querySelector(`[data-filter="${id}"]`);
  search.value = document.querySelector(`select[data-side="${id}"]`).value = "";
  search.dispatchEvent(new Event("input"));
};
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
const strip = document.getElementById("viewer-strip");
const status = document.getElementById("viewer-status");
const all = JSON.parse(document.getElementById("contents").textContent);
let tokens = null;
let spans = []; // of the tokens shown
let positions = []; // of them in the whole trajectory
let starts = []; // where a part of it begins, as an index into both
let at = -1;

const count = (n) => n.toLocaleString("en");
const code = (c) => `\\u{${c.codePointAt(0).toString(16)}}`;
// Line breaks, marks of direction and the like would otherwise be invisible or turn the line around.
const spelt = (token) => JSON.stringify(token).replace(/\p{C}/gu, code);
const visible = (token) => token.replace(/\r\n|[\p{C}\u2028\u2029]/gu, (c) => ({ "\n": "⏎\n", "\r\n": "⏎\n", "\t": "⇥\t" })[c] ?? code(c)) || "·";
// Of a text to be read: its line breaks, and what joins letters and emoji, stay.
const readable = (said) => said.replace(/(?![\n\t\u200c\u200d])[\p{C}\u2028\u2029]/gu, code);
const level = (value, limits) => limits.filter((limit) => value >= limit).length;
const look = (surprisal, rank) => `s${level(surprisal, [0.5, 1, 2, 4, 8])} r${level(rank, [2, 11, 101])}`;
const element = (name, className, content) => Object.assign(document.createElement(name), { className, textContent: content });
const walk = (to, block = "nearest") => {
  if (!spans.length) return;
  for (const old of viewer.querySelectorAll(".at")) old.classList.remove("at");
  at = Math.max(0, Math.min(spans.length - 1, to));
  const bars = strip.children;
  bars[Math.ceil((positions[at] + 1) * bars.length / tokens.n) - 1].classList.add("at");
  spans[at].classList.add("at");
  spans[at].scrollIntoView({ block });
  status.textContent = `token ${count(positions[at] + 1)} of ${count(tokens.n)}: ${spelt(tokens.text[at])}, rank ${count(tokens.rank[at])}, ` +
    `surprisal ${tokens.surprisal[at]} nats, entropy ${tokens.entropy[at]} nats`;
};
text.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity }[event.key];
  const part = { PageDown: starts.find((n) => n > at), PageUp: starts.findLast((n) => n < at) }[event.key];
  if (!spans.length || (step === undefined && part === undefined)) return;
  event.preventDefault();
  if (part === undefined) walk(at + step);
  else walk(part, "center");
});
text.addEventListener("click", (event) => {
  const n = spans.indexOf(event.target);
  if (n >= 0) walk(n);
});
strip.addEventListener("click", (event) => {
  const box = strip.getBoundingClientRect();
  const wanted = (event.clientX - box.left) / box.width * tokens.n;
  const away = positions.map((position) => Math.abs(position + 0.5 - wanted));
  walk(away.indexOf(Math.min(...away)), "center");
  text.focus({ preventScroll: true });
});
const drawStrip = () => {
  const { surprisal, rank } = tokens.strip;
  const most = Math.max(...surprisal);
  strip.replaceChildren(...surprisal.map((value, n) => {
    const bar = element("i", look(value, rank[n]), "");
    bar.style.height = `${100 * value / most}%`;
    return bar;
  }));
  const n = surprisal.indexOf(most);
  const [from, to] = [n, n + 1].map((edge) => Math.floor(edge * tokens.n / surprisal.length));
  const where = to - from > 1 ? `tokens ${count(from + 1)} to ${count(to)}` : `token ${count(to)}`;
  const said = `highest surprisal at ${where} of ${count(tokens.n)}, ${Math.round(100 * from / tokens.n)}% of the way: ` +
    `${most} nats, rank ${rank[n]} on average`;
  strip.setAttribute("aria-label", `Surprisal from the first token to the last: ${said}`);
  document.getElementById("viewer-said").textContent = `Above, the whole trajectory: ${said}.`;
};
const drawText = () => {
  [spans, positions, starts] = [[], [], []];
  const leftOut = (n) => n ? [element("div", "out", `… ${count(n)} token${n > 1 ? "s" : ""} left out …`)] : [];
  const drawn = [];
  let end = 0;
  for (const [from, to] of tokens.parts) {
    drawn.push(...leftOut(from - end));
    starts.push(spans.length);
    for (let position = from; position < to; position++) {
      const n = spans.length;
      spans.push(element("span", look(tokens.surprisal[n], tokens.rank[n]), visible(tokens.text[n])));
      positions.push(position);
      drawn.push(spans[n]);
    }
    end = to;
  }
  text.replaceChildren(...drawn, ...leftOut(tokens.n - end));
};
const show = (link) => {
  const shown = all[link.id];
  tokens = shown.tokens;
  at = -1;
  spans = [];
  let part = "";
  if (tokens) {
    drawStrip();
    drawText();
    const whole = spans.length === tokens.n;
    part = whole ? "" : `, ${count(spans.length)} of ${count(tokens.n)} tokens`;
    status.textContent = `Use the arrow keys to move through the tokens${whole ? "" : ", Page Up and Page Down to move through the parts"}; click a token to see its values.`;
  } else {
    text.replaceChildren(...(shown.text ?? []).flatMap(([role, said, leftOut]) => [
      ...(role ? [element("div", "role", role)] : []),
      element("div", "said", readable(said)),
      ...(leftOut ? [element("div", "out", `… ${count(leftOut)} character${leftOut > 1 ? "s" : ""} left out …`)] : []),
    ]));
    status.textContent = shown.text ? "Text from the corpus, without token scores." : `The text cannot be shown: ${shown.missing}.`;
  }
  text.setAttribute("aria-label", tokens ? "Tokens; use the arrow keys to move through them" : "Text of the trajectory");
  text.hidden = !tokens && !shown.text;
  document.getElementById("viewer-tokens").hidden = !tokens;
  document.getElementById("viewer-title").textContent = `${link.closest("tr").cells[0].textContent}: ${link.textContent}${part}`;
  document.getElementById("viewer-source").textContent = `Source: ${shown.source}, row ${count(shown.row)} (counted from 0)`;
  document.getElementById("viewer-link").href = link.href;
  if (!viewer.open) viewer.showModal();
  text.scrollTop = 0;
  if (!text.hidden) text.focus();
};

// A permalink opens what it points to, whatever is folded, filtered out, or a trajectory.
const follow = () => {
  const target = document.getElementById(location.hash.slice(1));
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  const row = target?.closest("tr");
  if (row?.hidden) clearFilters(row.closest("table"));
  target?.scrollIntoView();
  if (target?.matches(".open")) {
    target.focus();
    show(target);
  } else if (viewer.open) viewer.close();
  if (!target && location.hash.includes(":trajectory:")) say("That trajectory is not on this page: it is no longer among the best and the worst.");
};
const copied = document.getElementById("copied");
const say = (words) => {
  (viewer.open ? viewer : document.body).append(copied);
  copied.textContent = words;
};
viewer.addEventListener("close", () => {
  copied.textContent = "";
  if (all[location.hash.slice(1)]) history.replaceState(null, "", location.pathname + location.search);
});
addEventListener("hashchange", follow);
document.addEventListener("click", (event) => {
  const link = event.target.closest(".open");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  show(link);
});
document.addEventListener("click", async (event) => {
  const one = event.target.closest(".permalink, .copy");
  if (!one) return;
  const [what, wanted, otherwise] = one.href
    ? ["Link", one.href, "Copy the link from the address bar."]
    : ["Command", one.previousElementSibling.textContent, "Select the command to copy it."];
  const done = await navigator.clipboard?.writeText(wanted).then(() => true, () => false);
  say(done ? `${what} copied.` : otherwise);
});
addEventListener("load", follow); // and not before: the browser goes to the link's target, and would take the focus away

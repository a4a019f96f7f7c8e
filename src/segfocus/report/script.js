"use strict";
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    // numbers: lowest first, because the worst classes are what one looks for
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.value || row.cells[column].textContent.trim();
    const rows = [...body.rows], absent = row => ["", "–"].includes(value(row));
    const numeric = rows.every(row => absent(row) || !Number.isNaN(Number(value(row))));
    const order = (a, b) => numeric ? value(a) - value(b) : value(a).localeCompare(value(b));
    const present = rows.filter(row => !absent(row)).sort((a, b) => up ? order(a, b) : order(b, a));
    body.append(...present, ...rows.filter(absent));
  }));
}

const explain = document.getElementById("explain");
let asked = null;
const hide = () => { explain.hidden = true; asked = null; };
document.addEventListener("click", event => {
  const link = event.target.closest("a.info");
  if (!link || link === asked) { if (link) event.preventDefault(); if (!explain.contains(event.target)) hide(); return; }
  event.preventDefault();
  const term = document.querySelector(link.getAttribute("href")), name = document.createElement("strong");
  name.textContent = term.textContent;
  explain.replaceChildren(name, ...[...term.nextElementSibling.childNodes].map(node => node.cloneNode(true)));
  explain.hidden = false;
  asked = link;
  const place = link.getBoundingClientRect(), room = document.documentElement.clientWidth - explain.offsetWidth - 12;
  const above = place.bottom + explain.offsetHeight + 12 > innerHeight && place.top > explain.offsetHeight + 12;
  explain.style.left = `${scrollX + Math.max(12, Math.min(place.left - 20, room))}px`;
  explain.style.top = `${scrollY + (above ? place.top - explain.offsetHeight - 6 : place.bottom + 6)}px`;
});
document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });

const dialog = document.querySelector("dialog"), large = dialog.querySelector("img"), caption = dialog.querySelector("p");
let row = [], shown = 0;
const show = index => {
  shown = (index + row.length) % row.length;
  const image = row[shown];
  large.src = image.src; large.alt = image.alt; large.className = image.className;
  caption.textContent = `${image.alt}  (${shown + 1} of ${row.length}: ← →)`;
};
for (const button of document.querySelectorAll("figure button")) {
  button.addEventListener("click", () => {
    row = [...button.closest(".images").querySelectorAll("img")];
    show(row.indexOf(button.firstElementChild));
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", event => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) { event.preventDefault(); show(shown + step); }
});

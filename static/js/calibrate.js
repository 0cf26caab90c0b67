// The map before and after: pointing at a text lights it on both maps and says what it is.
// Everything else on the page works by links, forms and the style sheet.
"use strict";
(() => {
  const source = document.getElementById("map-texts");
  const tip = document.getElementById("map-tip");
  if (!source || !tip) return;
  const texts = new Map(JSON.parse(source.content.textContent).map((one) => [String(one.row), one]));
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  let lit = null;

  function light(row) {
    if (row === lit) return;
    lit = row;
    for (const dot of document.querySelectorAll("[data-map] .lit")) dot.classList.remove("lit");
    const one = row === null ? undefined : texts.get(row);
    if (!one) {
      tip.textContent = tip.dataset.empty;
      return;
    }
    for (const dot of document.querySelectorAll(`[data-map] [data-row="${row}"]`)) {
      dot.classList.add("lit");
      dot.parentNode.append(dot); // drawn last, so on top
    }
    tip.replaceChildren(
      element("span", one.text, "tip-text"),
      ` · truly ${one.label}; read as ${one.before} before, as ${one.after} after.`,
    );
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-replay]")) return;
    const [before, after] = ["view-before", "view-after"].map((id) => document.getElementById(id));
    before.checked = true;
    before.getBoundingClientRect(); // so that the way begins anew
    requestAnimationFrame(() => requestAnimationFrame(() => (after.checked = true)));
  });

  document.addEventListener("pointerover", (event) => {
    const dot = event.target.closest?.("[data-map] [data-row]");
    if (dot) light(dot.dataset.row);
    else if (event.target.closest?.("[data-map]")) light(null);
  });
})();

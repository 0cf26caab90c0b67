// A rail of layers to draw on, over the text field that holds them: the pointer drags, arrows move,
// with Shift they widen. Without this script the field is there all the same.
"use strict";
(() => {
  const rail = document.querySelector("[data-rail]");
  const field = rail && document.getElementById(rail.dataset.rail);
  if (!field) return;
  const count = Number(rail.dataset.count);
  const single = rail.hasAttribute("data-single");
  let fixed = 0; // where a range was begun, and where it ends
  let moving = 0;

  const cells = Array.from({ length: count }, (_, layer) => {
    const cell = document.createElement("span");
    cell.id = `rail-${layer}`;
    cell.setAttribute("role", "option");
    cell.setAttribute("aria-label", layer ? `layer ${layer}` : "layer 0, the embedding");
    cell.title = cell.getAttribute("aria-label");
    rail.append(cell);
    return cell;
  });

  function read() {
    const text = field.value.trim() || rail.dataset.empty;
    const found = /^(-?\d+)(?::(-?\d+))?$/.exec(text);
    if (!found) return [-1, -1]; // steps and open ends are the field's alone
    const from = (Number(found[1]) + count) % count;
    return found[2] === undefined ? [from, from] : [from, ((Number(found[2]) + count - 1) % count)];
  }

  function show() {
    const [low, high] = fixed <= moving ? [fixed, moving] : [moving, fixed];
    cells.forEach((cell, n) => cell.setAttribute("aria-selected", String(low <= n && n <= high)));
    if (moving >= 0) rail.setAttribute("aria-activedescendant", `rail-${moving}`);
    return [low, high];
  }

  function choose(layer, widen) {
    moving = Math.min(count - 1, Math.max(0, layer));
    if (!widen || single || fixed < 0) fixed = moving;
    const [low, high] = show();
    field.value = low === high ? String(low) : `${low}:${high + 1}`;
  }

  const tell = () => field.dispatchEvent(new Event("change", { bubbles: true }));
  const at = (event) => {
    const { left, width } = rail.getBoundingClientRect();
    return Math.floor(((event.clientX - left) / width) * count);
  };
  rail.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    rail.focus();
    rail.setPointerCapture(event.pointerId);
    choose(at(event), event.shiftKey);
  });
  rail.addEventListener("pointermove", (event) => {
    if (rail.hasPointerCapture(event.pointerId)) choose(at(event), true);
  });
  rail.addEventListener("pointerup", (event) => {
    if (!rail.hasPointerCapture(event.pointerId)) return;
    rail.releasePointerCapture(event.pointerId);
    tell();
  });
  rail.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 5, PageDown: -5 };
    const ends = { Home: 0, End: count - 1 };
    const to = event.key in ends ? ends[event.key] : event.key in steps ? moving + steps[event.key] : null;
    if (to === null || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(to, event.shiftKey);
    tell();
  });
  const follow = () => {
    [fixed, moving] = read();
    show();
  };
  field.addEventListener("input", follow);
  follow();
  rail.hidden = false;
})();

// The player inside of a story that was saved as one page: the same keys, dots and pictures, no server.
"use strict";
(() => {
  const { redrawn, point: pointed } = window.lexiscope;
  const slides = [...document.querySelectorAll("template.slide")];
  const main = document.getElementById("main");
  const make = (name, text = "", kind = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  let now = 0;

  const note = make("p", "", "stage-note");
  note.hidden = true;
  const bar = make("aside", "", "stage-bar");
  bar.setAttribute("aria-label", "Presentation");
  const row = make("div", "", "wrap");
  const button = (label, act, kind = "button quiet") => {
    const made = make("button", label, kind);
    made.type = "button";
    made.addEventListener("click", act);
    return made;
  };
  const title = make("strong");
  const back = button("←", () => go(now - 1));
  back.setAttribute("aria-label", "Back");
  const on = button("On →", () => go(now + 1), "button");
  const dots = make("ol", "", "dots");
  slides.forEach((_, i) => {
    const item = make("li");
    const dot = button("", () => go(i), "");
    dot.setAttribute("aria-label", `Step ${i + 1}`);
    item.append(dot);
    dots.append(item);
  });
  const said = make("p");
  said.append(title);
  row.append(back, said, dots, button("Note", () => (note.hidden = !note.hidden)), on);
  bar.append(note, row);
  document.body.append(bar);

  function go(to) {
    if (!slides[to]) return;
    now = to;
    const { title: words, note: told, show, point } = slides[to].dataset;
    document.body.className = `presenting show-${show}`;
    main.replaceChildren(slides[to].content.cloneNode(true));
    title.textContent = words;
    note.textContent = told;
    back.disabled = to === 0;
    on.disabled = to + 1 === slides.length;
    [...dots.querySelectorAll("button")].forEach((dot, i) => {
      if (i === to) dot.setAttribute("aria-current", "step");
      else dot.removeAttribute("aria-current");
    });
    scrollTo(0, 0);
    redrawn(main);
    pointed(point, main);
  }

  const keys = {
    ArrowRight: () => go(now + 1), PageDown: () => go(now + 1), " ": () => go(now + 1),
    ArrowLeft: () => go(now - 1), PageUp: () => go(now - 1),
    n: () => (note.hidden = !note.hidden),
    f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  };
  document.addEventListener(
    "keydown",
    (event) => {
      const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      act();
    },
    true,
  );
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => go(0));
  else go(0);
})();

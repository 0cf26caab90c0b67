// Three short tasks that go on when the visitor acts, not when a button is pressed. Nothing is shown
// until it is asked for; what was done is kept in this browser.
"use strict";
(() => {
  const KEY = "lexiscope-tour";
  const $ = (selector, root = document) => root.querySelector(selector);
  const { say } = window.lexiscope;
  const root = document.body.dataset.stories.replace(/\/present$/, "");
  const on = (path) => location.pathname === root + path;
  const asked = () => new URL(location.href).searchParams;

  // The open cell, where it is in the last column and names the model's answer.
  function answerFound() {
    const { layer, position } = $("#detail")?.dataset ?? {};
    const cell = layer && $(`.cells a[data-cell="${layer},${position}"]`)?.closest("td");
    return Boolean(cell && !cell.nextElementSibling && cell.matches(".agrees") && asked().has("cell"));
  }

  const TASKS = [
    {
      title: "Find where the answer appears",
      text: "In the grid, open a cell of the last column that names the answer, as low as you can: click it, or go there with the arrow keys and press Enter.",
      where: "/",
      done: () => on("/") && answerFound(),
      said: "Found: from about there on, the model's state stands nearest to its own answer.",
    },
    {
      title: "Change a word inside",
      text: "On the page Act, choose one of the examples, or two words of your own, and run it: the answer before and after stand beside each other.",
      where: "/act",
      done: () => on("/act") && ["token", "do", "layers", "source"].some((name) => asked().has(name)) && Boolean($("#result .answer")),
      said: "Changed: one push inside of the model, and another answer, or none.",
    },
    {
      title: "Look at the control",
      text: "Back on Read, follow the link after “Random control”, or choose “random control”: the same states, read by random directions. What shows there is chance.",
      where: "/",
      done: () => on("/") && asked().get("frame") === "random",
      said: "That is what chance looks like. Whatever is claimed here stands beside it.",
    },
  ];

  const stored = () => {
    try {
      const at = Number.parseInt(localStorage.getItem(KEY) ?? "", 10);
      return at >= 0 && at <= TASKS.length ? at : null; // null: it was not begun, or was put away
    } catch {
      return null;
    }
  };
  const store = (at) => {
    try {
      if (at === null) localStorage.setItem(KEY, "away");
      else localStorage.setItem(KEY, String(at));
    } catch {
      // then only for this page
    }
  };

  let at = stored();
  if (at === TASKS.length) store((at = null)); // the end was shown
  let box = null;

  function card() {
    box?.remove();
    box = null;
    if (at === null || document.body.classList.contains("presenting")) return;
    const make = (name, text = "", kind = "") => {
      const made = document.createElement(name);
      made.textContent = text;
      if (kind) made.className = kind;
      return made;
    };
    box = make("aside", "", "tour card");
    box.setAttribute("aria-label", "Three things to try");
    const task = TASKS[at];
    const close = make("button", "×", "button quiet square");
    close.type = "button";
    close.setAttribute("aria-label", "Put the tour away");
    close.addEventListener("click", away);
    const head = make("header");
    head.append(make("h2", task ? `${at + 1} of ${TASKS.length}: ${task.title}` : "That is all three"), close);
    box.append(head);
    if (at > 0) box.append(make("p", TASKS[at - 1].said, "done"));
    box.append(make("p", task ? task.text : "Now a text of your own; or Present, for a story told step by step."));
    if (task && !on(task.where)) {
      const link = make("a", task.where === "/" ? "Go to Read" : "Go to Act", "button quiet");
      link.href = `${root}${task.where}`;
      box.append(link);
    }
    document.body.append(box);
  }

  function away() {
    at = null;
    store(at);
    card();
    $("[data-tour]")?.focus();
  }

  // Whether what is asked for stands there now; then on to the next.
  function look() {
    if (at === null || !TASKS[at]?.done()) return;
    at += 1;
    store(at);
    card();
    say(`${TASKS[at - 1].said} ${TASKS[at] ? `Next: ${TASKS[at].title}.` : ""}`);
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-tour]")) return;
    at = 0;
    store(at);
    card();
    $("button", box)?.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && box?.contains(document.activeElement)) away();
  });
  for (const name of ["htmx:afterSettle", "htmx:pushedIntoHistory"]) document.addEventListener(name, () => requestAnimationFrame(look));
  card();
  look();
})();

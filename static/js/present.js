// Presenter mode: keys that go through a story, what is pointed at, and the notes in a second window.
"use strict";
(() => {
  const $ = (selector) => document.querySelector(selector);
  const bar = $("[data-present]");
  const channel = "BroadcastChannel" in window ? new BroadcastChannel("lexiscope-present") : null;

  // ---- behind the stage: every step is asked for once, so that the server has it -------------------

  const stage = $("[data-story]");
  async function prepare() {
    const steps = [...stage.querySelectorAll("[data-step]")];
    const said = $("[data-readiness]");
    let ready = 0;
    for (const step of steps) {
      const mark = step.querySelector("[data-mark]");
      try {
        for (const link of step.querySelectorAll("[data-ready-first]")) await (await window.lexiscope.ask(link.href)).text();
        await (await window.lexiscope.ask(step.dataset.href)).text();
        mark.textContent = "ready";
        mark.className = "badge ok needs-js";
        ready += 1;
      } catch {
        mark.textContent = step.querySelector("form") ? "not made yet" : "cannot be shown";
        mark.className = "badge fail needs-js";
      }
      said.textContent = `${ready} of ${steps.length} steps are ready.`;
    }
  }
  if (stage) {
    prepare();
    channel?.addEventListener("message", ({ data }) => {
      if (data.story !== stage.dataset.story) return;
      for (const step of stage.querySelectorAll("[data-step]")) {
        const here = step.dataset.step === data.step;
        step.classList.toggle("pointed", here);
        if (here) step.scrollIntoView({ block: "center" });
      }
    });
  }
  if (!bar) return;

  // ---- on the stage ---------------------------------------------------------------------------------

  // A story of this browser's own is filled in here.
  if (bar.dataset.story === "own") {
    const story = window.lexiscope.story.read();
    const number = Number(bar.dataset.step);
    const step = story.steps[number - 1];
    if (!step) return;
    document.body.className = `presenting show-${step.show}`;
    bar.dataset.point = step.point;
    $("[data-step-title]").textContent = step.title;
    const lead = (link, to) => {
      link.hidden = to < 1 || to > story.steps.length;
      if (!link.hidden) link.href = window.lexiscope.story.stepHref(story, to);
    };
    lead(bar.querySelector("[data-back]"), number - 1);
    lead(bar.querySelector("[data-on]"), number + 1);
    bar.querySelector(".dots").append(
      ...story.steps.map((_, i) => {
        const item = document.createElement("li");
        const link = document.createElement("a");
        link.href = window.lexiscope.story.stepHref(story, i + 1);
        link.setAttribute("aria-label", `Step ${i + 1}`);
        if (i + 1 === number) link.setAttribute("aria-current", "step");
        item.append(link);
        return item;
      }),
    );
  }

  channel?.postMessage({ story: bar.dataset.story, step: bar.dataset.step });
  window.lexiscope.point(bar.dataset.point, $("#main"));
  const go = (link) => link && !link.hidden && location.assign(link.href);
  const keys = {
    ArrowRight: () => go(bar.querySelector("[data-on]")),
    PageDown: () => go(bar.querySelector("[data-on]")),
    " ": () => go(bar.querySelector("[data-on]")),
    ArrowLeft: () => go(bar.querySelector("[data-back]")),
    PageUp: () => go(bar.querySelector("[data-back]")),
    Escape: () => go(bar.querySelector("[data-leave]")),
    n: () => window.open(bar.querySelector("[data-leave]").href, "lexiscope-notes", "width=620,height=760"),
    f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  };
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.closest("input, textarea, select, [contenteditable]")) return;
      const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!act) return;
      event.preventDefault();
      event.stopPropagation();
      act();
    },
    true,
  );
})();

// A text that goes on: its pieces come as server-sent events and are put where they belong. Stop,
// Esc, another page or another text end it on the server as well. Links do everything else.
"use strict";
(() => {
  const { ask, box, Problem, say } = window.lexiscope;
  let under = null; // what is being written: its section and how it is stopped

  // The events of an answer that comes in pieces.
  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n");
        const name = lines[0].slice("event: ".length);
        yield { name, data: lines.slice(1).map((line) => line.slice("data: ".length)).join("\n") };
      }
    }
  }

  function put(section, { name, data }) {
    const content = new DOMParser().parseFromString(data, "text/html").body;
    const $ = (selector) => section.querySelector(selector);
    if (name === "column") {
      const follow = $(".columns-box");
      const atEnd = follow.scrollLeft + follow.clientWidth > follow.scrollWidth - 40;
      $("[data-columns]").append(content.querySelector("li.column"));
      $("[data-rows]").append(content.querySelector("tr"));
      $("[data-written]").append(content.querySelector("a.new"));
      if (atEnd && getComputedStyle($("[data-columns]")).flexDirection === "row") {
        follow.scrollLeft = follow.scrollWidth;
      }
    } else {
      $("[data-end]").replaceChildren(...content.children);
      window.htmx?.process($("[data-end]"));
    }
  }

  async function write(section) {
    under?.stop();
    const url = section.dataset.stream;
    delete section.dataset.stream;
    const asking = new AbortController();
    const here = { section, stop: () => asking.abort() };
    under = here;
    const finish = (words) => {
      section.removeAttribute("aria-busy");
      section.querySelector("[data-stop]")?.remove();
      if (under === here) under = null;
      if (words) say(words);
    };
    try {
      const response = await ask(url, { signal: asking.signal });
      for await (const event of events(response)) {
        put(section, event);
        if (event.name === "end") finish("The text is finished.");
      }
      finish();
    } catch (problem) {
      finish();
      const place = section.querySelector("[data-end]");
      if (asking.signal.aborted) {
        const note = document.createElement("p");
        note.className = "muted";
        const count = section.querySelectorAll("li.column").length;
        note.textContent = `Stopped after ${count} token${count === 1 ? "" : "s"}.`;
        place.replaceChildren(note);
        say(note.textContent);
      } else {
        const again = (shown) => {
          shown.remove();
          for (const part of section.querySelectorAll("[data-columns], [data-rows], [data-written]")) part.replaceChildren();
          section.dataset.stream = url;
          section.setAttribute("aria-busy", "true");
          write(section);
        };
        const known = problem instanceof Problem;
        place.replaceChildren(box(known ? problem : new Problem("The text broke off: the server, or the way to it, is gone."), again));
      }
    }
  }

  function scan(root) {
    const section = root.matches?.("[data-stream]") ? root : root.querySelector?.("[data-stream]");
    if (section) write(section);
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-stop]")) under?.stop();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") under?.stop();
  });
  document.addEventListener("htmx:beforeCleanupElement", (event) => {
    if (under && event.target.contains(under.section)) under.stop();
  });
  addEventListener("pagehide", () => under?.stop());
  if (window.htmx) window.htmx.onLoad(scan);
  else scan(document.body);
})();

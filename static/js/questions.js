// How a page asks its server, and what it says when the answer is not the one that was hoped for: a
// sentence where the answer would stand, and a way on. Nothing that was typed is lost.
//
// - `ask` is the only `fetch` of these pages. It says which model the page was made with, as htmx
//   does by the body's `hx-headers`, so that no page mixes the numbers of two models.
// - What htmx gets as an error is shown in the place of the answer, with a button that asks again.
// - Forms that change something are sent from here, so that a refusal does not cost the page.
"use strict";
(() => {
  const EXPECT = "X-Lexiscope-Expect";
  const MODEL = "X-Lexiscope-Model";
  const LIMIT = 600; // characters of a sentence that is not one of ours
  const make = (name, text = "", kind = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  // ---- one answer, read --------------------------------------------------------------------------------

  // The fingerprint of the model that this page was made with, or "".
  function expected() {
    try {
      return JSON.parse(document.body.getAttribute("hx-headers") ?? "{}")[EXPECT] ?? "";
    } catch {
      return "";
    }
  }

  class Problem extends Error {
    constructor(sentence, { title = "This did not work", note = "", moved = false, calm = false } = {}) {
      super(sentence);
      Object.assign(this, { title, note, moved, calm });
    }
  }

  const silent = () =>
    new Problem("The server did not answer. Check that it is still running, then try again.", {
      title: "No answer",
    });

  // What an answer with a status of 400 or more says: our page or part of one, our JSON, or the bare
  // words of whatever stands in between.
  function understood({ status, type, text, model, wait }) {
    const own = expected();
    const moved = status === 409 && Boolean(own && model) && !model.split(" ").includes(own);
    if (type.includes("html")) {
      const found = new DOMParser().parseFromString(text, "text/html").getElementById("problem");
      if (found) {
        const [sentence, ...notes] = [...found.querySelectorAll("p")].map((one) => one.textContent);
        return new Problem(sentence ?? "", {
          title: found.querySelector("h2")?.textContent, note: notes.join(" "), moved,
          calm: found.classList.contains("calm"),
        });
      }
    }
    let sentence = "";
    if (type.includes("json")) {
      try {
        sentence = JSON.parse(text).error.sentence;
      } catch {
        // then it is not one of ours
      }
    } else if (type.includes("text/plain")) sentence = text.trim().slice(0, LIMIT);
    const again = wait ? `Try again in ${wait} second${wait === "1" ? "" : "s"}.` : "";
    return new Problem(sentence || `The server, or a proxy before it, answered with the status ${status}.`, {
      note: again, moved,
    });
  }

  const read = async (response) =>
    understood({
      status: response.status,
      type: response.headers.get("Content-Type") ?? "",
      text: await response.text().catch(() => ""),
      model: response.headers.get(MODEL),
      wait: response.headers.get("Retry-After"),
    });

  // A `fetch` whose every failure is a Problem with a sentence.
  // `away`: an answer that leads elsewhere is taken as it is, whatever stands there.
  async function ask(url, { headers = {}, away = false, ...options } = {}) {
    const own = expected();
    const sent = { ...headers, ...(own ? { [EXPECT]: own } : {}) };
    let response;
    try {
      response = await fetch(url, { ...options, headers: sent });
    } catch {
      throw silent();
    }
    if (response.ok || (away && response.redirected)) return response;
    throw await read(response);
  }

  // ---- one problem, shown ------------------------------------------------------------------------------

  // `again`: what a press on the button does; null: there is none. `here`: the address that keeps the
  // question, for when only a new page will do.
  function box(problem, again = null, here = location.href) {
    const section = make("section", "", `problem lost${problem.calm ? " calm" : ""}`);
    section.setAttribute("role", "alert");
    const known = problem instanceof Problem;
    const sentence = known ? problem.message : "The page itself has stumbled; loading it again helps as a rule.";
    if (!known) console.error(problem);
    section.append(make("h2", problem.title ?? "This did not work"), make("p", sentence));
    if (problem.note) section.append(make("p", problem.note, "muted"));
    const row = make("p", "", "problem-act");
    if (problem.moved) {
      const link = make("a", "Load the page again", "button");
      link.href = here;
      // The same address with a part after # would only be scrolled to.
      link.addEventListener("click", (event) => {
        event.preventDefault();
        if (here === location.href) location.reload();
        else location.assign(here);
      });
      row.append(link);
    } else if (again) {
      const button = make("button", "Try again", "button quiet");
      button.type = "button";
      button.addEventListener("click", () => again(section));
      row.append(button);
    }
    if (row.childElementCount) section.append(row);
    return section;
  }

  function shown(place) {
    return place.querySelector(":scope > .lost");
  }

  // Put the box on top of what stands in a place, once.
  function above(place, problem, again) {
    const before = shown(place);
    if (before?.querySelector("p")?.textContent === problem.message) return; // not told twice
    before?.remove();
    place.prepend(box(problem, again));
  }

  // In the one line beside the prompt; typing on asks again.
  function beside(place, problem) {
    const line = make("span", problem.message);
    line.id = "cost-problem";
    line.setAttribute("role", "alert");
    place.replaceChildren(line);
  }

  // ---- what htmx asks ------------------------------------------------------------------------------------

  const closest = (elt, name) => elt.closest(`[${name}]`)?.getAttribute(name) ?? undefined;

  // The same question once more.
  function repeat(detail) {
    const { requestConfig: config, target, pathInfo, etc } = detail;
    const { elt, verb } = config;
    const swap = etc?.swapOverride ?? closest(elt, "hx-swap");
    const select = etc?.select ?? closest(elt, "hx-select");
    const values = verb === "get" ? undefined : Object.fromEntries(config.formData ?? []);
    return () => {
      if (elt.isConnected && elt !== target && !etc?.select) {
        htmx.ajax(verb, config.path, { source: elt, target, swap });
      } else {
        // What was clicked has gone with the answer: its place asks for it.
        htmx.ajax(verb, verb === "get" ? pathInfo.finalRequestPath : config.path, {
          source: target, target, swap, select, values,
        });
      }
    };
  }

  const polls = (elt) => closest(elt, "hx-trigger")?.includes("every ") && elt.hasAttribute("hx-trigger");

  function address(detail) {
    const path = detail.pathInfo?.finalRequestPath ?? "";
    const asked = new URL(path || location.href, location.href);
    return detail.requestConfig?.verb === "get" && asked.pathname === location.pathname
      ? asked.href
      : location.href;
  }

  function refused(event) {
    const { detail } = event;
    const { xhr, target, requestConfig } = detail;
    if (!detail.isError || event.defaultPrevented) return;
    const header = (name) => xhr.getResponseHeader(name);
    const problem = understood({
      status: xhr.status, type: header("Content-Type") ?? "", text: xhr.responseText,
      model: header(MODEL), wait: header("Retry-After"),
    });
    // A forecast's own sentence belongs beside what is typed.
    if (target.id === "cost" && /id="cost-problem"/.test(xhr.responseText)) return;
    if (polls(requestConfig.elt)) {
      // What was last known stays, and it is asked for again by itself.
      detail.shouldSwap = false;
      above(target, problem, null);
      return;
    }
    const again = repeat(detail);
    const here = address(detail);
    if (target.id === "cost") {
      detail.shouldSwap = false;
      beside(target, problem);
      return;
    }
    const place = () => {
      const section = box(problem, again, here);
      section.id = "problem";
      section.classList.remove("lost");
      target.replaceChildren(section);
    };
    if (detail.select || detail.etc?.swapOverride) {
      // Asked for by script with a part to choose, which no error has: htmx would leave nothing.
      detail.shouldSwap = false;
      place();
    } else {
      // htmx keeps the address and swaps what the answer brings for other places; then ours stands
      // where the server's section stood.
      if (!/id="problem"/.test(xhr.responseText)) detail.serverResponse = '<section id="problem"></section>';
      target.addEventListener("htmx:afterSwap", place, { once: true });
    }
  }

  function silence(event) {
    const { detail } = event;
    const target = detail.target ?? document.getElementById("result");
    if (!target) return;
    const problem = silent();
    if (target.id === "cost") beside(target, problem);
    else above(target, problem, polls(detail.requestConfig.elt) ? null : repeat(detail));
  }

  document.addEventListener("htmx:beforeSwap", (event) => {
    shown(event.detail.target)?.remove();
  });
  document.addEventListener("htmx:beforeSwap", refused);
  document.addEventListener("htmx:sendError", silence);
  document.addEventListener("htmx:timeout", silence);
  // Back and forward: a page of another model, or none, is loaded as a whole.
  document.addEventListener("htmx:historyCacheMissLoad", ({ detail }) => {
    const model = detail.xhr?.getResponseHeader(MODEL);
    if (model && expected() && !model.split(" ").includes(expected())) location.reload();
  });
  document.addEventListener("htmx:historyCacheMissLoadError", () => location.reload());

  // ---- forms that change something ---------------------------------------------------------------------

  const underWay = new WeakSet();

  async function send(form, button) {
    if (underWay.has(form)) return;
    underWay.add(form);
    button?.setAttribute("aria-busy", "true");
    const values = new FormData(form, button);
    const files = form.enctype === "multipart/form-data";
    const by = button ?? form;
    const place = by.closest("table") ?? by;
    const old = place.nextElementSibling;
    const stop = new AbortController();
    const end = window.lexiscope.waiting(() => stop.abort());
    try {
      const response = await ask(button?.getAttribute("formaction") ?? form.getAttribute("action"), {
        method: "POST", away: true, signal: stop.signal,
        body: files ? values : new URLSearchParams(values),
      });
      if (old?.matches(".lost")) old.remove();
      if (response.url === location.href.split("#")[0]) location.reload();
      else location.assign(response.url);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (old?.matches(".lost")) old.remove();
      if (!stop.signal.aborted) place.after(box(problem, () => send(form, button)));
    } finally {
      end();
      underWay.delete(form);
      button?.removeAttribute("aria-busy");
    }
  }

  document.addEventListener("submit", (event) => {
    const { target: form, submitter } = event;
    const method = submitter?.getAttribute("formmethod") ?? form.getAttribute("method") ?? "get";
    // A file that is saved leaves the page as it is.
    if (event.defaultPrevented || method.toLowerCase() !== "post" || "saves" in form.dataset) return;
    event.preventDefault();
    send(form, submitter);
  });

  window.lexiscope = { ask, box, above, expected, Problem };
})();

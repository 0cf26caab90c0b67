// A story as a thing to keep: the page where one's own is put in order, its file, and one HTML page
// that holds every step with its pictures and plays without a server.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const { ask, say, story: own } = window.lexiscope;
  const make = (name, text = "", kind = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const tell = (words) => {
    const said = $("[data-said]");
    if (said) said.textContent = words;
    say(words);
  };

  function save(name, type, content) {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  const fileName = (title) => title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40) || "story";

  // ---- one page that plays by itself -----------------------------------------------------------------------

  // What of a page stays when nobody answers: no links, forms, scripts, nor what comes later.
  function still(page) {
    const main = $("main", page);
    for (const one of $$("script, form, input, select, textarea, button, [aria-busy], .figure-tools, .hidden-label", main)) one.remove();
    for (const one of [main, ...$$("*", main)]) {
      for (const { name } of [...one.attributes]) if (/^(hx-|href$|action$|src$|formaction$)/.test(name)) one.removeAttribute(name);
    }
    return main;
  }

  // A script or sheet inside of a page: what would end it, or hide its end, is written another way.
  const inside = (code) => code.replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");

  async function onePage(title, steps) {
    const page = document.implementation.createHTMLDocument(title);
    const add = (name, text, where = page.head) => {
      const made = page.createElement(name);
      made.textContent = text;
      where.append(made);
      return made;
    };
    const meta = (name, content, by = "name") => {
      const made = add("meta", "");
      made.setAttribute(by, name);
      made.setAttribute("content", content);
    };
    const rule = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'";
    meta("Content-Security-Policy", rule, "http-equiv");
    meta("viewport", "width=device-width, initial-scale=1");
    meta("color-scheme", "light dark");
    page.documentElement.className = "no-js";
    page.documentElement.lang = "en";
    const sheets = new Set();
    const slides = [];
    for (const [i, step] of steps.entries()) {
      tell(`Step ${i + 1} of ${steps.length} …`);
      const found = new DOMParser().parseFromString(await (await ask(step.href)).text(), "text/html");
      for (const sheet of $$("link[rel=stylesheet]", found)) sheets.add(sheet.getAttribute("href"));
      const slide = page.createElement("template");
      slide.className = "slide";
      for (const name of ["title", "note", "show", "point"]) slide.setAttribute(`data-${name}`, step[name]);
      slide.content.append(...still(found).childNodes);
      slides.push(slide);
    }
    tell("Putting it together …");
    let styles = ""; // as text: an element would be applied here, which this page's own policy forbids
    for (const sheet of sheets) styles += `<style>${(await (await ask(sheet)).text()).replaceAll("</", "<\\/")}</style>\n`;
    page.body.className = "presenting";
    page.body.dataset.stories = "";
    const main = add("main", "", page.body);
    Object.assign(main, { id: "main", className: "wrap" });
    page.body.append(...slides);
    const script = (name) => $(`script[src*="${name}"]`).getAttribute("src");
    const sources = [script("theme.js"), script("questions.js"), script("grid-captions.js"), script("figures.js"),
      $("meta[name=plotly]").content, script("story.js").replace("story.js", "story-file.js")];
    for (const source of sources) add("script", inside(await (await ask(source)).text()), page.body);
    return `<!doctype html>\n${page.documentElement.outerHTML.replace("</head>", () => `${styles}</head>`)}`;
  }

  // The steps of the story on this page: one's own, or one that the server tells.
  function stepsHere() {
    const story = own.read();
    if ($("[data-own-story]")) return [story.title, story.steps.map((step, i) => ({ ...step, href: own.stepHref(story, i + 1) }))];
    const rows = $$("[data-story] [data-step]").map((row) => ({
      title: $("h2 a", row).innerText, note: $("[data-note]", row).innerText, show: row.dataset.show, point: row.dataset.point,
      href: row.dataset.href,
    }));
    return [$("[data-story]").dataset.title, rows];
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-save]");
    if (!button) return;
    const [title, steps] = stepsHere();
    button.disabled = true;
    try {
      if (!steps.length) tell("There is no view in it yet.");
      else if (button.dataset.save === "page") {
        save(`${fileName(title)}.html`, "text/html", await onePage(title, steps));
        tell("Saved. The file opens without a network: → on, ← back, N the note.");
      } else {
        save(`${fileName(title)}.json`, "application/json", JSON.stringify(own.read(), null, 2));
        tell("Saved.");
      }
    } catch (problem) {
      tell(problem.message);
    }
    button.disabled = false;
  });

  // ---- one's own, put in order ---------------------------------------------------------------------------------

  const page = $("[data-own-story]");
  if (!page) return;

  function change(how) {
    const story = own.read();
    how(story);
    own.write(story);
    show();
  }

  function field(label, value, kind, keep) {
    const box = make("label", "", "field");
    const input = make(kind);
    input.value = value;
    input.addEventListener("change", () => {
      const story = own.read();
      keep(story, input.value);
      own.write(story);
    });
    box.append(make("span", label, "label"), input);
    return box;
  }

  function row(step, i, story) {
    const item = make("li", "", "card");
    const link = make("a", step.address);
    link.href = own.stepHref(story, i + 1);
    const where = make("p", "", "caption");
    where.append(link);
    const tools = make("p", "", "figure-tools");
    const tool = (label, can, how) => {
      const button = make("button", label, "button quiet");
      button.type = "button";
      button.disabled = !can;
      button.setAttribute("aria-label", `${label}: view ${i + 1}`);
      button.addEventListener("click", () => change(how));
      tools.append(button);
    };
    const move = (to) => ({ steps }) => steps.splice(to, 0, ...steps.splice(i, 1));
    tool("Earlier", i > 0, move(i - 1));
    tool("Later", i + 1 < story.steps.length, move(i + 1));
    tool("Take it out", true, ({ steps }) => steps.splice(i, 1));
    const title = field("What it shows", step.title, "input", ({ steps }, value) => (steps[i].title = value));
    $("input", title).type = "text";
    item.append(title, field("What you say", step.note, "textarea", ({ steps }, value) => (steps[i].note = value)), where, tools);
    return item;
  }

  function show() {
    const story = own.read();
    $("#story-title").value = story.title;
    $("[data-steps]").replaceChildren(...story.steps.map((step, i) => row(step, i, story)));
    $("[data-none]").hidden = story.steps.length > 0;
    const begin = $("[data-begin]");
    begin.hidden = !story.steps.length;
    if (story.steps.length) begin.href = own.stepHref(story, 1);
  }

  $("#story-title").addEventListener("change", (event) => {
    const story = own.read();
    own.write({ ...story, title: event.target.value });
  });
  $("[data-clear]").addEventListener("click", () => change((story) => Object.assign(story, { title: "My story", steps: [] })));
  $("[data-open]").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    let story = null;
    try {
      story = file && file.size < 1_000_000 ? own.whole(JSON.parse(await file.text())) : null;
    } catch {
      // then it is no story
    }
    if (!story) tell(`${file?.name ?? "This"} is no story that was saved here: a story file is JSON with steps, each with an address of this app.`);
    else if (own.write(story)) {
      show();
      const other = story.fingerprint && story.fingerprint !== window.lexiscope.expected();
      tell(other ? `Opened. It was made with ${story.model}; another model is open, so what the notes say need not be so.` : "Opened.");
    }
  });
  show();
})();

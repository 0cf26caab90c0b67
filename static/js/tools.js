// The tools in every page's header, and pictures that say what they show: title, prompt, reading and
// model stand inside of the file, so that it can be told apart in a drawer.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const { say } = window.lexiscope;
  const make = (name, text = "", kind = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  // ---- menus -----------------------------------------------------------------------------------------

  // A menu closes when one goes elsewhere.
  for (const kind of ["click", "focusin", "keydown"]) {
    document.addEventListener(kind, (event) => {
      if (!event.isTrusted) return; // a download clicks a link of its own
      for (const menu of $$("[data-menu][open]")) {
        if (kind === "keydown" ? event.key !== "Escape" : menu.contains(event.target)) continue;
        menu.open = false;
        if (kind === "keydown") $("summary", menu).focus();
      }
    });
  }

  // On a narrow page the long lists of a card wait to be opened; one that was opened stays so.
  const narrow = matchMedia("(max-width: 40rem)");
  const unfolded = new Set();
  function fold() {
    for (const one of $$(".fold")) one.open = !narrow.matches || unfolded.has(one.id);
  }
  document.addEventListener("click", (event) => {
    const one = event.target.closest(".fold > summary")?.parentNode;
    if (one) unfolded[one.open ? "delete" : "add"](one.id); // the click turns it after this
  });
  document.addEventListener("htmx:afterSwap", fold);
  narrow.addEventListener("change", fold);
  fold();

  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "p" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    if (!document.body.classList.contains("presenting")) location.assign(document.body.dataset.stories);
  });

  // ---- the address -----------------------------------------------------------------------------------

  async function copy(text, done, refused) {
    try {
      await navigator.clipboard.writeText(text);
      say(done);
      return done;
    } catch {
      say(refused);
      return refused;
    }
  }

  async function share(menu) {
    const field = $("[data-address]", menu);
    field.value = location.href;
    field.select();
    const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
    const where = local ? " It leads to this machine, so it opens on this machine alone." : "";
    const said = await copy(location.href, "Copied.", "Copy it from this line; the browser does not let the page.");
    $("[data-shared]", menu).textContent = said + where;
  }

  // ---- the files of a page -----------------------------------------------------------------------------

  const heading = (element) => $("h2", element.closest("section"))?.innerText.trim() || document.title;

  function pictures() {
    const named = new Map();
    for (const element of $$("main [data-plot]")) {
      if (!element.checkVisibility()) continue;
      const title = heading(element);
      named.set(title, [...(named.get(title) ?? []), element]);
    }
    return [...named].flatMap(([title, all]) =>
      all.map((element, i) => [all.length > 1 ? `${title} (${i + 1})` : title, element]),
    );
  }

  function files(menu) {
    const list = $("[data-files-here]", menu);
    list.replaceChildren();
    for (const [title, element] of pictures()) {
      const row = make("li");
      row.append(make("span", title));
      for (const format of ["svg", "png"]) {
        const button = make("button", format.toUpperCase(), "button quiet");
        Object.assign(button, { type: "button" }).dataset.picture = format;
        button.dataset.of = element.id;
        button.setAttribute("aria-label", `${title}, ${format.toUpperCase()}`);
        row.append(button);
      }
      list.append(row);
    }
    const own = make("li");
    own.append(make("span", "Numbers"));
    for (const link of $$("main [data-files] a[href], main a[data-file]")) {
      if (link.pathname === location.pathname) continue; // its permalink
      const twin = make("a", link.textContent.trim(), "button quiet");
      twin.href = link.href;
      own.append(twin);
    }
    if (own.children.length > 1) list.append(own);
    const page = make("li");
    const print = make("button", "Print", "button quiet");
    print.type = "button";
    print.dataset.print = "";
    page.append(make("span", "This page"), print);
    list.append(page);
  }

  const opened = { share, files };
  document.addEventListener(
    "toggle",
    (event) => event.target.open && opened[event.target.dataset?.menu]?.(event.target),
    true,
  );

  // ---- a picture -----------------------------------------------------------------------------------------

  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  // Lines of at most so many characters, three of them; what is left out is an ellipsis.
  function lines(text, most) {
    const out = [""];
    for (const word of text.replace(/\s+/g, " ").trim().match(new RegExp(`\\S{1,${most}}`, "gu")) ?? []) {
      if (out.at(-1) && out.at(-1).length + word.length >= most) out.push("");
      out[out.length - 1] += (out.at(-1) ? " " : "") + word;
    }
    if (out.length > 3) out.splice(2, Infinity, `${out[2]} …`);
    return out.filter(Boolean).map(escaped);
  }

  // The drawn figure with its words above it: `{data, layout}` of its own.
  async function titled(element) {
    const { data, layout } = await window.lexiscope.figure(element);
    const { prompt = "", reading = "" } = element.closest("[data-reading]")?.dataset ?? {};
    const width = Math.max(layout.width, 420);
    const most = Math.floor((width - 32) / 7);
    const words = [
      ...lines(heading(element), most).map((line) => `<b>${line}</b>`),
      ...(prompt ? lines(`Prompt: ${prompt}`, most) : []),
      ...lines([reading, document.body.dataset.model, "Lexiscope"].filter(Boolean).join(" · "), most),
    ];
    const race = layout.meta?.kind === "curves" && layout.showlegend === false;
    const above = 22 + 17 * words.length;
    return {
      data: race ? data.map((trace) => ({ ...trace, showlegend: trace.meta?.role !== "behind" })) : data,
      layout: {
        ...layout,
        width,
        height: layout.height + above + (race ? 26 : 0),
        margin: { ...layout.margin, t: layout.margin.t + above + (race ? 26 : 0) },
        showlegend: race || layout.showlegend,
        legend: race ? { ...layout.legend, itemclick: false } : layout.legend,
        title: {
          text: words.join("<br>"), xref: "container", x: 0, xanchor: "left", yref: "container", y: 1,
          yanchor: "top", pad: { t: 14, l: 16 }, font: { size: 13, color: layout.font.color },
        },
      },
    };
  }

  async function download(button) {
    const element = document.getElementById(button.dataset.of);
    const figure = await titled(element);
    const { width, height } = figure.layout;
    const Plotly = await window.lexiscope.plotly();
    await Plotly.downloadImage(figure, {
      format: button.dataset.picture, width, height, scale: 2, filename: `lexiscope-${element.id}`,
    });
    say("The picture is saved.");
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-picture], [data-copy], [data-print]");
    if (!button) return;
    if (button.dataset.picture) await download(button);
    else if ("print" in button.dataset) print();
    else {
      const text = button.dataset.copy === "url" ? location.href : $(button.dataset.copy).textContent;
      const done = await copy(text, "Copied.", "The browser does not let the page copy; use the address line.");
      if (done === "Copied.") button.textContent = "copied";
    }
  });

  // ---- a story of one's own, kept in this browser ----------------------------------------------------------

  const KEY = "lexiscope-story";
  const MOST = 40;
  const root = document.body.dataset.stories.replace(/\/present$/, "");

  // The story, or an empty one; what is stored may be anything, and is taken only as it should be.
  function read() {
    const empty = { title: "My story", model: document.body.dataset.model, fingerprint: window.lexiscope.expected(), steps: [] };
    try {
      return whole(JSON.parse(localStorage.getItem(KEY))) ?? empty;
    } catch {
      return empty; // storage may be switched off
    }
  }

  const text = (value, most = 4000) => (typeof value === "string" ? value.slice(0, most) : "");

  // A story out of a file or of the storage, with nothing in it that is not a story's; else null.
  function whole(raw) {
    const page = (one) => typeof one?.address === "string" && /^\/(?![/\\])[^\s\\]*$/.test(one.address);
    if (!Array.isArray(raw?.steps) || raw.steps.length > MOST || !raw.steps.every(page)) return null;
    return {
      title: text(raw.title, 200), model: text(raw.model, 200), fingerprint: text(raw.fingerprint, 80),
      steps: raw.steps.map((one) => ({
        title: text(one.title, 200), address: text(one.address), note: text(one.note),
        show: ["prompt", "reveal"].includes(one.show) ? one.show : "all", point: text(one.point, 200),
      })),
    };
  }

  function write(story) {
    try {
      localStorage.setItem(KEY, JSON.stringify(story));
      return true;
    } catch {
      say("This browser does not let the page keep a story.");
      return false;
    }
  }

  // The address of a step of it, as a page of this app.
  function stepHref(story, number) {
    const url = new URL(root + story.steps[number - 1].address, location.origin);
    url.searchParams.set("present", `own:${number}`);
    return url.pathname + url.search;
  }

  function counted() {
    const { length } = read().steps;
    for (const link of $$("[data-own]")) {
      link.hidden = !length;
      link.textContent = `Your story (${length} view${length === 1 ? "" : "s"})`;
    }
  }

  function record() {
    const story = read();
    if (story.steps.length >= MOST) {
      say(`A story has at most ${MOST} views.`);
      return;
    }
    const url = new URL(location.href);
    url.searchParams.delete("present");
    const title = ($("#headline") ?? $("main .answer") ?? $("main .verdict") ?? $("main h1"))?.innerText ?? document.title;
    const point = $("#headline") ? "#headline" : "";
    story.steps.push({
      title: title.trim().slice(0, 90), address: url.pathname.slice(root.length) + url.search, note: "", show: "all", point,
    });
    if (write(story)) say(`Added: view ${story.steps.length} of your story.`);
    counted();
  }

  document.addEventListener("click", (event) => event.target.closest("[data-record]") && record());
  counted();

  Object.assign(window.lexiscope, { titled, story: { read, write, whole, stepHref } });
})();

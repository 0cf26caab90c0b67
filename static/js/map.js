// The map page: layers, colours, what is lit, and pictures that follow the page's swaps. Without it
// the page shows a still picture and the same tables.
"use strict";
(() => {
  const { above, ask, say, here, map, names } = window.lexiscope;
  const { Panel, panels } = map;
  const { calm } = window.lexiscope.common;
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- layers: the slider, play and step --------------------------------------------------------------

  async function layer(value) {
    const slider = $("[data-layers]");
    if (!slider) return;
    const to = Math.min(Math.max(Number(value), 0), Number(slider.max));
    slider.value = to;
    const shown = $("[data-layer-shown]");
    if (shown) shown.textContent = `layer ${to} of ${slider.max}`;
    history.replaceState(history.state, "", here({ layer: to }));
    const moved = map.all().filter((panel) => panel.root.dataset.panel === "a" || "follows" in panel.root.dataset);
    const failed = await Promise.all(moved.map((panel) => panel.go(to).then(() => null, (error) => error)));
    const error = failed.find(Boolean);
    if (error) {
      // A layer that cannot be drawn, or not yet: the page says why and what to do.
      map.playing = null;
      say(error.message);
      const result = $("#result");
      await window.htmx?.ajax("GET", here({}), { source: result, target: result, swap: "outerHTML", select: "#result" });
      return;
    }
    clearTimeout(later);
    later = setTimeout(follow, map.playing ? 900 : 150);
  }

  // What is written about the picture follows its layer: the same page, asked for anew.
  let later = 0;
  async function follow() {
    const asked = location.href;
    let text = "";
    try {
      text = await (await ask(here({}), { headers: { "HX-Request": "true" } })).text();
    } catch (error) {
      // Or what is written would be that of another layer, and say nothing of it.
      const place = $("#result");
      if (place && asked === location.href) {
        above(place, error, (box) => {
          box.remove();
          follow();
        });
      }
      return;
    }
    if (asked !== location.href) return;
    $("#result > .lost")?.remove();
    const page = new DOMParser().parseFromString(text, "text/html");
    for (const old of $$("[data-about]")) {
      const now = page.getElementById(old.id);
      if (!now) continue;
      document.adoptNode(now);
      old.replaceWith(now);
      window.htmx?.process(now);
      lights(now);
    }
  }

  async function play() {
    const button = $("[data-play]");
    const slider = $("[data-layers]");
    if (map.playing) {
      map.playing = null;
    } else {
      map.playing = button;
      button.setAttribute("aria-pressed", "true");
      if (Number(slider.value) === Number(slider.max)) await layer(0);
      while (map.playing === button && button.isConnected && Number(slider.value) < Number(slider.max)) {
        await layer(Number(slider.value) + 1);
        await new Promise((done) => setTimeout(done, calm.matches ? 900 : 350));
      }
      map.playing = null;
    }
    button.setAttribute("aria-pressed", "false");
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-play], [data-step], [data-zoom], [data-reset]");
    if (!button) return;
    if (button.matches("[data-play]")) play();
    else if (button.dataset.step) {
      map.playing = null;
      layer(Number($("[data-layers]").value) + Number(button.dataset.step));
    } else {
      const panel = panels.get(button.closest("[data-map]")) ?? map.all()[0];
      if (button.dataset.zoom) panel?.zoom(Number(button.dataset.zoom));
      else panel?.reset();
    }
  });

  document.addEventListener(
    "change",
    (event) => {
      const target = event.target;
      if (!target.matches("[data-layers], [data-colour], [data-names], [data-drag]")) return;
      event.stopPropagation(); // the form would ask for the whole page
      if (target.matches("[data-layers]")) {
        map.playing = null;
        layer(target.value);
      } else if (target.matches("[data-colour]")) {
        history.replaceState(history.state, "", here({ colour: target.value }));
        for (const panel of map.all()) panel.colour(target.value);
      } else if (target.matches("[data-names]")) {
        for (const panel of map.all()) panel.names();
      } else for (const panel of map.all()) if (panel.flat) panel.mode(target.value);
    },
    true,
  );
  // Words that are on the map, while one types; one that is chosen is looked for at once.
  document.addEventListener("input", (event) => {
    const find = event.target.closest("[data-complete]");
    const panel = find && map.all()[0];
    if (!panel) return;
    const chosen = !event.inputType || event.inputType === "insertReplacementText";
    if (chosen && find.value && [...find.list.options].some((one) => one.value === find.value)) return find.form.requestSubmit();
    const { start, count } = panel.runs.points;
    const words = Array.from({ length: count }, (_, i) => panel.label(start + i));
    find.list.replaceChildren(...names.complete(words, find.value).map((word) => new Option("", word)));
  });

  document.addEventListener("input", (event) => {
    const shown = event.target.matches("[data-layers]") && $("[data-layer-shown]");
    if (shown) shown.textContent = `layer ${event.target.value} of ${event.target.max}`;
  });

  document.addEventListener("keydown", (event) => {
    const panel = panels.get(event.target.closest?.("[data-map]"));
    if (panel && event.target === panel.element && !event.ctrlKey && !event.metaKey) panel.key(event);
  });

  // The wheel scrolls the page until the map is in hand (clicked or reached by Tab).
  document.addEventListener(
    "wheel",
    (event) => {
      const element = event.target.closest?.(".map-plot");
      if (element && !event.ctrlKey && !element.closest(".map-box").contains(document.activeElement)) event.stopPropagation();
    },
    { capture: true, passive: true },
  );
  document.addEventListener("pointerdown", (event) => event.target.closest?.(".map-plot")?.focus({ preventScroll: true }), true);

  // ---- what the server's fragments light up -----------------------------------------------------------

  function lights(root) {
    const found = root.matches?.("[data-lit]") ? [root] : $$("[data-lit]", root);
    for (const place of found) {
      const indices = place.dataset.lit ? place.dataset.lit.split(",").map(Number) : [];
      const from = panels.get($(`[data-map][data-panel="${place.dataset.of ?? "a"}"]`));
      for (const panel of map.all()) {
        const own = panel === from ? indices : indices.map((i) => from && i < from.n ? panel.same(from.run(i).kind, from.row(i)) : -1);
        panel.light(own, place.dataset.quiet === "yes");
        if (place.dataset.fly) from?.fly(Number(place.dataset.fly));
        if (place.dataset.from) {
          if (from?.flat && !from.where(Number(place.dataset.from)).inside) from.fly(Number(place.dataset.from));
          const i = Number(place.dataset.from);
          const at = panel === from ? i : panel.same(from.run(i).kind, from.row(i));
          if (at >= 0) panel.spokes(at, own.filter((k) => k >= 0 && k !== at));
        }
      }
    }
  }

  function purge(root) {
    for (const [element, panel] of [...panels]) {
      if (root !== element && !root.contains(element)) continue;
      panel.moving++;
      window.Plotly?.purge(panel.element);
      panel.gone.abort();
      panel.cloud?.close();
      panels.delete(element);
    }
  }

  async function fill(panel) {
    try {
      await panel.load();
    } catch (error) {
      panel.failed(error, () => fill(panel));
    }
  }

  async function scan(root) {
    const found = root.matches?.("[data-map]") ? [root] : $$("[data-map]", root);
    for (const element of found) {
      if (panels.has(element)) continue;
      const panel = new Panel(element);
      panels.set(element, panel);
      await fill(panel);
    }
    lights(found.length ? document.body : root);
  }

  document.addEventListener("lexiscope:theme", () => {
    for (const panel of map.all()) {
      panel.paint();
      panel.redraw();
      const by = $("[data-colour]")?.value;
      if (by) panel.colour(by);
    }
  });
  let resizing = 0;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => map.all().forEach((panel) => panel.resize()), 150);
  });

  map.follow = follow;

  if (window.htmx) {
    htmx.onLoad(scan);
    document.addEventListener("htmx:beforeCleanupElement", (event) => purge(event.target));
  } else scan(document.body);
})();

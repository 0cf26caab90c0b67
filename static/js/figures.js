// The only island of script. It draws the figures, carries clicks and keys on the grid to htmx,
// changes the grid's colour without asking the server, and does a few small comforts. Every one of
// these has a plain link or form beside it, so the pages work without this file.
"use strict";
(() => {
  const { above, Problem, gridCaptions } = window.lexiscope;
  const drawn = new Map(); // element -> its figure's data, layout and meta
  const still = { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: false };
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const say = (text) => {
    const live = $("#live");
    if (live) live.textContent = text;
  };

  // ---- Plotly, fetched when the first figure comes into view ----------------------------------

  let loading = null;
  function plotly() {
    if (window.Plotly) return Promise.resolve(window.Plotly); // inside of a file
    loading ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = $("meta[name=plotly]").content;
      // Plotly brings the style sheet of its maps along and would inject it, which the
      // Content-Security-Policy forbids. It asks first whether the sheet is there, by a hash for
      // an id: say yes while it loads.
      const find = document.getElementById.bind(document);
      document.getElementById = (id) => find(id) ?? (/^[0-9a-f]{64}$/.test(id) ? script : null);
      script.onload = () => {
        delete document.getElementById;
        done(window.Plotly);
      };
      script.onerror = () => {
        delete document.getElementById;
        script.remove();
        loading = null; // so that it can be tried again
        failed(new Problem("What draws the figures could not be fetched. The tables hold the same numbers."));
      };
      document.head.append(script);
    });
    return loading;
  }

  // ---- colours come from the page's custom properties --------------------------------------------

  function palette() {
    const style = getComputedStyle(document.documentElement);
    const get = (name) => style.getPropertyValue(`--${name}`).trim();
    const many = (name, n) => Array.from({ length: n }, (_, i) => get(`${name}-${i}`));
    return {
      surface: get("surface"), ink: get("ink"), muted: get("muted"), rule: get("rule"),
      mark: get("mark"), sequential: many("seq", 7), diverging: many("div", 7), lines: many("line", 8),
    };
  }

  function scale(colours, role, reverse) {
    const stops = [...(role === "diverging" ? colours.diverging : colours.sequential)];
    if (reverse) stops.reverse();
    return stops.map((stop, i) => [i / (stops.length - 1), stop]);
  }

  // The same choice as text_colours in app/figures/theme.py: whichever of two can be read.
  function readable(value, stops) {
    const at = Math.min(Math.max(value || 0, 0), 1) * (stops.length - 1);
    const low = Math.floor(at);
    const mix = at - low;
    const channel = (stop, i) => parseInt(stop.slice(1 + 2 * i, 3 + 2 * i), 16) / 255;
    const light = [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
      const a = channel(stops[low], i);
      const c = a + mix * (channel(stops[Math.min(low + 1, stops.length - 1)], i) - a);
      return sum + weight * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    }, 0);
    return light > 0.179 ? "#000000" : "#ffffff";
  }

  // An array of Plotly's own writing: base64 of little-endian float32, with its shape.
  function rows(z) {
    if (Array.isArray(z)) return z;
    const bytes = Uint8Array.from(atob(z.bdata), (c) => c.charCodeAt(0));
    const [height, length] = String(z.shape).split(",").map(Number);
    const flat = z.dtype === "f4" ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer);
    return Array.from({ length: height }, (_, i) => flat.subarray(i * length, (i + 1) * length));
  }

  function paint(figure, colours) {
    const cells = figure.data.find((trace) => trace.meta?.part === "cells");
    for (const trace of figure.data) {
      const meta = trace.meta ?? {};
      if (meta.part === "texts") {
        const stops = scale(colours, cells.meta.role, cells.meta.reverse).map((pair) => pair[1]);
        const z = rows(cells.z);
        const { zmin, zmax } = cells;
        trace.textfont.color = trace.x.map((x, i) =>
          readable((z[trace.y[i]][x] - zmin) / (zmax - zmin), stops),
        );
      }
      if (meta.part === "cells") {
        trace.colorscale = scale(colours, meta.role, meta.reverse);
        trace.colorbar.tickfont.color = colours.muted;
        trace.colorbar.title.font.color = colours.muted;
      } else if (meta.role === "mark") {
        trace.marker.color = colours.mark;
        trace.marker.line.color = colours.surface;
      } else if (meta.role === "line") {
        trace.line.color = trace.marker.color = colours.lines[meta.line];
      } else if (meta?.role === "behind") {
        trace.line.color = trace.marker.color = colours.muted;
      } else if (meta.role === "bar") {
        trace.marker.color = colours.lines[meta.line];
      }
    }
    const layout = figure.layout;
    layout.paper_bgcolor = layout.plot_bgcolor = colours.surface;
    layout.font.color = colours.ink;
    const unified = layout.hovermode === "x unified";
    layout.hoverlabel = {
      ...layout.hoverlabel,
      bgcolor: unified ? colours.surface : colours.ink,
      bordercolor: unified ? colours.rule : colours.ink,
      font: { ...layout.hoverlabel?.font, color: unified ? colours.ink : colours.surface },
    };
    if (layout.legend) layout.legend.font = { ...layout.legend.font, color: colours.ink };
    for (const name of Object.keys(layout)) {
      if (!/^[xy]axis\d*$/.test(name)) continue;
      const axis = layout[name];
      axis.gridcolor = axis.linecolor = axis.tickcolor = colours.rule;
      if (axis.zeroline) axis.zerolinecolor = colours.muted;
      axis.title.font.color = colours.muted;
      const named = layout.meta.kind === "grid" && name === "xaxis";
      axis.tickfont.color = named ? colours.ink : colours.muted;
    }
    for (const note of layout.annotations ?? []) note.font.color = colours.muted;
    for (const shape of layout.shapes ?? []) shape.line.color = colours.mark;
  }

  // ---- drawing ---------------------------------------------------------------------------------------

  function width(element, layout) {
    const room = element.parentElement.clientWidth;
    return Math.max(room, ["grid", "acted", "panels"].includes(layout.meta.kind) ? layout.meta.width : 0);
  }

  async function draw(element) {
    if (drawn.has(element)) return;
    const source = document.getElementById(element.dataset.source);
    if (!source) return;
    const figure = JSON.parse(source.content.textContent);
    figure.layout.meta.width = figure.layout.width ?? 0;
    drawn.set(element, figure);
    const Plotly = await plotly();
    if (!element.isConnected) return;
    paint(figure, palette());
    figure.layout.width = width(element, figure.layout);
    await Plotly.newPlot(element, figure.data, figure.layout, still);
    element.dataset.ready = "yes";
    element.dispatchEvent(new CustomEvent("lexiscope:drawn", { bubbles: true, detail: figure }));
    if (element.dataset.plot === "grid") {
      element.on("plotly_click", (event) => {
        const point = event.points.find((p) => p.data.meta?.part === "cells");
        if (point) open(element, point.y, point.x);
      });
      syncCell();
      reveal(element);
      figure.spread = gridCaptions.lay(element, figure.layout);
    }
  }

  async function attempt(element) {
    try {
      await draw(element);
    } catch (error) {
      drawn.delete(element);
      above(element.parentElement, error, (problem) => {
        problem.remove();
        attempt(element);
      });
    }
  }

  const sight = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        sight.unobserve(entry.target);
        attempt(entry.target);
      }
    },
    { rootMargin: "400px" },
  );

  function purge(root) {
    for (const element of [...drawn.keys()]) {
      if (root !== element && !root.contains(element)) continue;
      if (window.Plotly) window.Plotly.purge(element);
      drawn.delete(element);
    }
  }

  function redraw(element) {
    const figure = drawn.get(element);
    if (figure && window.Plotly) window.Plotly.react(element, figure.data, figure.layout, still);
  }

  document.addEventListener("lexiscope:theme", () => {
    for (const [element, figure] of drawn) {
      paint(figure, palette());
      redraw(element);
    }
  });

  let resizing = 0;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => {
      for (const [element, figure] of drawn) {
        figure.spread?.(); // another height of the window
        const now = width(element, figure.layout);
        if (now === figure.layout.width) continue;
        figure.layout.width = now;
        element.style.width = "";
        redraw(element);
      }
    }, 150);
  });

  // ---- the grid: selection, keys, colour ----------------------------------------------------------

  const theGrid = () => [...drawn.keys()].find((e) => e.dataset.plot === "grid");

  function here(changes) {
    const url = new URL(location.href);
    for (const [name, value] of Object.entries(changes)) url.searchParams.set(name, value);
    return url.pathname + url.search;
  }

  function outline(element, row, column) {
    const figure = drawn.get(element);
    figure.cursor = [row, column];
    const line = { color: palette().mark, width: 3 };
    figure.layout.shapes = [
      {
        type: "rect", x0: column - 0.49, x1: column + 0.49, y0: row - 0.47, y1: row + 0.47,
        line, fillcolor: "rgba(0,0,0,0)",
      },
    ];
    if (element.dataset.ready) window.Plotly.relayout(element, { shapes: figure.layout.shapes });
  }

  function open(element, row, column) {
    const { layers, positions } = drawn.get(element).layout.meta;
    outline(element, row, column);
    if (!window.htmx) return;
    const source = document.getElementById("detail");
    htmx.ajax("GET", here({ cell: `${layers[row]},${positions[column]}` }), {
      source, target: source, swap: "outerHTML", select: "#detail",
    });
  }

  // The page's address changed: links that keep its state follow, each but in what it sets itself.
  function carry(links, names) {
    const now = new URL(location.href).searchParams;
    for (const link of links) {
      if (link.pathname !== location.pathname) continue;
      const url = new URL(link.href);
      for (const name of names) {
        if (name === "cell" && link.dataset.cell) continue;
        url.searchParams.delete(name);
        for (const value of now.getAll(name)) url.searchParams.append(name, value);
      }
      link.href = url.pathname + url.search + url.hash;
    }
  }

  function followAddress() {
    carry($$("#result a[href]:not(#detail a)"), ["pin", "curve", "cell"]);
    const prompt = new URL(location.href).searchParams.get("prompt");
    for (const link of $$("[data-takes-prompt]")) {
      const url = new URL(link.href);
      if (prompt) url.searchParams.set("prompt", prompt.slice(0, 2000));
      link.href = url.pathname + url.search;
    }
    if (prompt === null) return;
    for (const chip of $$(".examples .chip")) {
      if (chip.dataset.prompt === prompt) chip.setAttribute("aria-current", "true");
      else chip.removeAttribute("aria-current");
    }
  }

  // After a swap the page says which cell is open; the grid and the table follow.
  function syncCell() {
    const detail = document.getElementById("detail");
    if (!detail?.dataset.layer) return;
    const [layer, position] = [Number(detail.dataset.layer), Number(detail.dataset.position)];
    for (const link of $$(".cells a[aria-current]")) link.removeAttribute("aria-current");
    $(`.cells a[data-cell="${layer},${position}"]`)?.setAttribute("aria-current", "true");
    const element = theGrid();
    if (!element) return;
    const { layers, positions } = drawn.get(element).layout.meta;
    const [row, column] = [layers.indexOf(layer), positions.indexOf(position)];
    if (row >= 0 && column >= 0) outline(element, row, column);
  }

  // Scroll the figure, never the page, so that the selected column can be seen; stop at a column's
  // edge, so that none stands half under the layer labels.
  function reveal(element) {
    const [, column] = drawn.get(element)?.cursor ?? [];
    const box = element.parentElement;
    if (column === undefined || box.scrollWidth <= box.clientWidth) return;
    const axis = element._fullLayout?.xaxis;
    if (!axis) return;
    const step = axis.c2p(1) - axis.c2p(0);
    const middle = axis._offset + axis.c2p(column) - box.clientWidth / 2;
    // Room on the right, so that the very end is a column's edge as well.
    const end = Math.ceil((element._fullLayout.width - box.clientWidth) / step) * step;
    element.style.width = `${box.clientWidth + end}px`;
    box.scrollLeft = Math.min(Math.max(Math.round(middle / step) * step, 0), end);
  }

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && target.form?.matches("[data-submit]")) {
      event.preventDefault();
      target.form.requestSubmit();
      return;
    }
    if (target.dataset?.plot !== "grid" || !drawn.has(target)) return;
    const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const figure = drawn.get(target);
    const { layers, positions } = figure.layout.meta;
    const [row, column] = figure.cursor ?? [layers.length - 1, positions.length - 1];
    if (step) {
      event.preventDefault();
      const y = Math.min(Math.max(row + step[0], 0), layers.length - 1);
      const x = Math.min(Math.max(column + step[1], 0), positions.length - 1);
      outline(target, y, x);
      reveal(target);
      target.dispatchEvent(new CustomEvent("lexiscope:cursor", { bubbles: true, detail: { figure, row: y, column: x } }));
      if (target.closest(".high")) gridCaptions.clear(target, figure.layout, y);
      const cell = $(`.cells [data-cell="${layers[y]},${positions[x]}"]`);
      say(cell?.getAttribute("aria-label") ?? `layer ${layers[y]}, position ${positions[x]}`);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(target, row, column);
    }
  });

  // Caught on the way down, before the form's own listener sends it to the server.
  document.addEventListener(
    "change",
    (event) => {
      if (!event.target.matches("select[name=colour]")) return;
      const element = theGrid();
      const figure = element && drawn.get(element);
      const plane = figure?.layout.meta.planes?.[event.target.value];
      if (!plane) return;
      event.stopPropagation();
      const cells = figure.data.find((trace) => trace.meta?.part === "cells");
      Object.assign(cells, { z: plane.z, zmin: plane.zmin, zmax: plane.zmax, colorbar: plane.colorbar });
      cells.meta = { ...cells.meta, role: plane.role, reverse: plane.reverse };
      paint(figure, palette());
      redraw(element);
      const reads = $("[data-reads]");
      if (reads) reads.textContent = plane.reads;
      history.replaceState(history.state, "", here({ colour: event.target.value }));
      carry($$("#result a[href]"), ["colour"]);
    },
    true,
  );

  // ---- small comforts -----------------------------------------------------------------------------------

  // A table that stands open without script is folded with it, until the reader opens it.
  const unfolded = new Set();
  document.addEventListener(
    "toggle",
    (event) => {
      const details = event.target;
      if (!details.matches?.("details[data-fold]") || !details.dataset.folded) return;
      if (details.open) unfolded.add(details.id);
      else unfolded.delete(details.id);
    },
    true,
  );

  function scan(root) {
    const found = root.matches?.("[data-plot]") ? [root] : $$("[data-plot]", root);
    for (const element of found) {
      if (element.dataset.plot === "grid") attempt(element); // what the page is about waits for nobody
      else sight.observe(element);
    }
    for (const details of $$("details[data-fold]:not([data-folded])", root)) {
      if (!unfolded.has(details.id)) details.open = false;
      requestAnimationFrame(() => (details.dataset.folded = "yes"));
    }
    if (root.id === "detail" || $("#detail", root)) syncCell();
  }

  function start() {
    if (!window.htmx) {
      scan(document.body);
      return;
    }
    htmx.onLoad(scan);
    // Enter in a field is a change and a submit: the second asks for what is under way already.
    const underWay = new Map();
    // And what is being run needs no forecast: it would come late and stand over what was measured.
    let typed = false;
    document.addEventListener("input", (event) => (typed ||= event.target.id === "prompt"));
    document.addEventListener("htmx:confirm", (event) => {
      const form = event.target;
      if (form.id === "prompt" && !typed) event.preventDefault();
      if (!form.matches("form")) return;
      const asked = new URLSearchParams(new FormData(form)).toString();
      if (underWay.get(form) === asked) event.preventDefault();
      underWay.set(form, asked);
      typed = false;
    });
    document.addEventListener("htmx:afterRequest", (event) => underWay.delete(event.detail.elt));
    // htmx remembers where a boosted link led at first; ours may have followed the address since.
    document.addEventListener("htmx:configRequest", (event) => {
      const { boosted, elt } = event.detail;
      if (boosted && elt.matches("a")) event.detail.path = elt.getAttribute("href");
    });
    document.addEventListener("htmx:pushedIntoHistory", followAddress);
    document.addEventListener("htmx:beforeCleanupElement", (event) => purge(event.target));
    // A forecast that comes late does not stand over what was measured.
    document.addEventListener("htmx:beforeSwap", (event) => {
      if (event.target.id === "cost" && !typed) event.preventDefault();
    }, true);
  }

  // A figure as it is drawn, for a picture of it.
  async function figure(element) {
    await draw(element);
    return drawn.get(element);
  }

  // Other content stands in an element: its figures in place of those before.
  function redrawn(root) {
    for (const element of [...drawn.keys()]) if (!element.isConnected) purge(element);
    scan(root);
  }

  // What a speaker points at. Figures that are drawn later move it: it is kept in view until the
  // speaker does something.
  let growing = null;
  function point(selector, root) {
    growing?.disconnect();
    let target = null;
    try {
      target = selector && $(selector, root);
    } catch {
      // what a file points at may be no selector
    }
    if (!target) return;
    target.classList.add("pointed");
    const show = () => target.scrollIntoView({ block: target.offsetHeight > innerHeight / 2 ? "start" : "nearest" });
    growing = new ResizeObserver(show);
    growing.observe(root);
    for (const kind of ["wheel", "pointerdown", "keydown"]) addEventListener(kind, () => growing.disconnect(), { once: true, capture: true });
    show();
  }

  // What the scripts of the map and of the header use as well.
  Object.assign(window.lexiscope, { plotly, palette, say, here, figure, redrawn, point });

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();

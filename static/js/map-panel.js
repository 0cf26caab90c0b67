// One picture of a map: fetches its points and draws them with Plotly. Its colours (map-paint.js), what
// is looked up on it (map-look.js), its layers (map-layers.js), pointer and keys (pointer.js) and
// fingers (map-touch.js) are files of their own. What is written beside it comes from the server as
// HTML.
"use strict";
(() => {
  const { plotly, Cloud, points: P, common } = window.lexiscope;
  const { escaped, short, json, bytes } = common;
  const $ = (selector, root = document) => root.querySelector(selector);
  const spacious = matchMedia("(min-width: 68rem)");
  const [BELOW, BELOW_WHOLE] = [94, 62]; // pixels of legend and bar, and of the bar under a whole card
  const panels = new Map(); // element -> Panel
  const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: true, doubleClick: "reset" };

  class Panel {
    constructor(root) {
      this.root = root;
      this.box = $(".map-box", root);
      this.element = $(".map-plot", root);
      this.tip = $(".map-tip", root);
      this.ring = $(".map-ring", root);
      const { figure, ...source } = JSON.parse($("template", root).content.textContent);
      this.figure = figure;
      this.source = source;
      this.layer = source.layer;
      this.at = -1; // the point under the pointer or the keys
      this.lit = [];
      this.moving = 0;
      this.asked = 0;
      this.gone = new AbortController(); // ends what listens to the whole window
      if (this.flat) this.cloud = new Cloud($(".map-cloud", root));
      // What has no axes may be as large as its card; what is said of it stands on it.
      this.whole = this.flat && Boolean(source.urls.regions) && !root.closest(".two");
      root.classList.toggle("whole", this.whole);
    }

    get flat() {
      return this.source.dims === 2;
    }

    url(path, more = {}) {
      const url = new URL(path, location.href);
      for (const [name, value] of new URLSearchParams(this.source.query)) url.searchParams.append(name, value);
      for (const [name, value] of Object.entries(more)) url.searchParams.set(name, value);
      return url.pathname + url.search;
    }

    async load() {
      const { urls, fingerprint } = this.source;
      // The dots wait for no names.
      const named = Promise.all([
        this.source.vocabulary ? json(urls.vocabulary) : null,
        this.flat && urls.regions ? json(this.url(urls.regions)) : null,
      ]);
      named.catch(() => {}); // told below
      const [Plotly, buffer] = await Promise.all([plotly(), bytes(this.url(urls.points, { layer: this.layer }))]);
      if (!this.root.isConnected) return;
      [this.words, this.regions] = [[], []];
      this.setRuns(this.source);
      this.places = P.columns(buffer, this.source.dims);
      this.fingerprint = fingerprint;
      this.paint();
      this.fill(this.places);
      this.size();
      this.clear();
      await Plotly.newPlot(this.element, this.figure.data, this.figure.layout, CONFIG);
      this.under_axes();
      this.listen();
      this.index();
      this.element.dataset.ready = "yes";
      this.home = this.view();
      const [words, areas] = await named;
      if (!this.root.isConnected) return;
      [this.words, this.regions] = [words?.labels ?? [], areas?.regions ?? []];
      if (this.whole && this.runs.path.count) {
        this.fill(this.places);
        await window.Plotly.restyle(this.element, { text: [this.figure.data[this.trace("path")].text] }, [this.trace("path")]);
      }
      await this.colour($("[data-colour]")?.value);
      this.names();
      this.show(Number(this.root.dataset.point ?? -1));
    }

    // Which points are of which kind, and what those outside of the vocabulary are called.
    setRuns(meta) {
      this.kinds = meta.kinds;
      const run = (...wanted) => meta.kinds.filter((k) => wanted.includes(k.kind) && k.count)[0] ?? { start: 0, count: 0 };
      this.runs = { points: run("basis", "alone"), path: run("prompt"), texts: run("text") };
      this.own = new Map();
      for (const part of meta.labels) part.labels.forEach((label, i) => this.own.set(part.start + i, label));
      this.n = meta.n;
      this.border = meta.border.points;
      this.outside = new Set(this.border.map((point) => point.index));
    }

    label(i) {
      return this.own.get(i) ?? this.words[this.row(i)] ?? `#${this.row(i)}`;
    }

    // What is written at a token of the text: itself, and on an atlas the word that it stands at.
    written(i) {
      const own = this.label(i).replace(/^␣/, "");
      const [x, y] = this.places;
      const at = [];
      if (this.whole && this.words.length && this.grid) {
        this.grid.within(x[i], x[i], y[i], y[i], (j) => void (this.run(j).kind === "basis" && at.push(j)));
      }
      const word = at.length === 1 ? this.label(at[0]).replace(/^␣/, "") : own;
      return word === own ? own : `${own} → ${word}`;
    }

    run(i) {
      return this.kinds.find((k) => i >= k.start && i < k.start + k.count);
    }

    row(i) {
      const run = this.run(i);
      return run?.rows ? run.rows[i - run.start] : i - (run?.start ?? 0);
    }

    // The same token, position or text in another panel.
    same(kind, row) {
      for (const run of this.kinds) {
        if (run.kind !== kind) continue;
        const place = run.rows ? run.rows.indexOf(row) : row;
        if (place >= 0 && place < run.count) return run.start + place;
      }
      return -1;
    }

    trace(part) {
      return this.figure.data.findIndex((trace) => trace.meta.part === part);
    }

    cut(run, places) {
      const axes = ["x", "y", "z"].slice(0, this.source.dims);
      return Object.fromEntries(axes.map((name, d) => [name, places[d].subarray(run.start, run.start + run.count)]));
    }

    pick(indices, places = this.places) {
      const axes = ["x", "y", "z"].slice(0, this.source.dims);
      return Object.fromEntries(axes.map((name, d) => [name, Float32Array.from(indices, (i) => places[d][i])]));
    }

    // Put the places into the figure and onto the canvas, without drawing.
    fill(places) {
      const { data, layout } = this.figure;
      const { dots } = layout.meta;
      const runs = { points: this.runs.points, texts: this.runs.texts };
      for (const [name, run] of Object.entries(runs)) {
        const cut = this.cut(run, places);
        if (this.flat) {
          const codes = this.coding?.codes.subarray(run.start, run.start + run.count);
          this.cloud.place(name, cut.x, cut.y, codes, dots[name]);
        } else Object.assign(data[this.trace(name)], cut);
      }
      const path = this.cut(this.runs.path, places);
      const some = this.runs.path.count <= 48;
      Object.assign(data[this.trace("halo")], path);
      Object.assign(data[this.trace("path")], path, {
        mode: this.runs.path.count > 1 ? (some ? "lines+markers+text" : "lines+markers") : "markers+text",
        text: some ? Array.from({ length: this.runs.path.count }, (_, i) => escaped(short(this.written(this.runs.path.start + i), 28))) : [],
      });
      Object.assign(data[this.trace("border")], this.pick(this.border.map((p) => p.index), places));
      this.rings(places);
    }

    // Rings around what was found or is near.
    rings(places = this.places) {
      const at = this.pick(this.lit, places);
      // A few are ringed; where there are many, rings would hide one another.
      const { lit, crowd } = this.figure.layout.meta.dots;
      const style = this.lit.length > 150 ? crowd : lit;
      if (this.flat) this.cloud.place("lit", at.x, at.y, undefined, { ...style, edge: this.palette.mark });
      else Object.assign(this.figure.data[this.trace("lit")], at);
    }

    // The canvas under the axes: what they show now.
    under_axes(share = 0) {
      if (!this.cloud || !this.element._fullLayout) return;
      const { xaxis, yaxis } = this.element._fullLayout;
      const [x, y] = [[...xaxis.range].sort((a, b) => a - b), [...yaxis.range].sort((a, b) => a - b)];
      this.cloud.view({
        left: xaxis._offset, top: yaxis._offset, width: xaxis._length, height: yaxis._length,
        x0: x[0], x1: x[1], y0: y[0], y1: y[1],
      });
      this.cloud.share = share;
      this.nearer();
      this.cloud.draw();
    }

    // Dots are larger and denser the nearer one is.
    nearer() {
      const home = this.home?.["xaxis.range"] ?? [this.cloud.now.x0, this.cloud.now.x1];
      this.cloud.near = Math.min(Math.max(Math.abs(home[1] - home[0]) / (this.cloud.now.x1 - this.cloud.now.x0), 1), 16);
    }

    // On a wide page the picture is the page. On a narrow one never as high as the window: a finger on
    // the picture moves the picture, one beside it the page.
    size() {
      const width = this.box.clientWidth;
      const wide = this.figure.layout;
      wide.width = width;
      const low = Math.round(Math.min(Math.max(width * 0.82, 330), Math.max(innerHeight * 0.64, Math.min(420, innerHeight * 0.8)), 760));
      wide.height = spacious.matches ? Math.max(Math.round(innerHeight - (scrollY + this.box.getBoundingClientRect().top) - (this.whole ? BELOW_WHOLE : BELOW)), 420) : low;
      this.box.style.minHeight = `${wide.height}px`;
    }

    // At first no dot lies under what stands on the picture.
    clear() {
      if (!this.whole || !spacious.matches) return;
      const { yaxis, height } = this.figure.layout;
      const [over, under] = [".map-about", ".map-legend"].map((one) => $(one, this.root).offsetHeight);
      const [low, high] = yaxis.range;
      const unit = (high - low) / Math.max(height - over - under, height / 2);
      yaxis.range = [low - under * unit, high + over * unit];
    }

    async redraw() {
      await window.Plotly.react(this.element, this.figure.data, this.figure.layout, CONFIG);
      this.under_axes();
    }

    axes() {
      const { xaxis, yaxis } = this.element._fullLayout;
      return { xaxis, yaxis, px: Math.abs(xaxis._m), py: Math.abs(yaxis._m) };
    }

    view() {
      if (!this.flat) return null;
      const { xaxis, yaxis } = this.element._fullLayout;
      return { "xaxis.range": [...xaxis.range], "yaxis.range": [...yaxis.range] };
    }

    index() {
      if (this.flat) this.grid = new P.Grid(this.places[0], this.places[1]);
    }

    restyle(...parts) {
      const list = parts.map((part) => this.trace(part));
      const fields = {};
      for (const name of ["x", "y", ...(this.flat ? [] : ["z"])]) fields[name] = list.map((i) => this.figure.data[i][name]);
      if (parts.includes("names")) {
        for (const name of ["text", "textposition", "textfont"]) fields[name] = list.map((i) => this.figure.data[i][name]);
      }
      return window.Plotly.restyle(this.element, fields, list);
    }

    resize() {
      const width = this.figure.layout.width;
      this.size();
      if (width !== this.figure.layout.width) this.redraw().then(() => this.names());
    }
  }

  const { paint, look, layers, pointer, touch } = window.lexiscope;
  Object.assign(Panel.prototype, paint, look, layers, pointer, touch);
  window.lexiscope.map = { Panel, panels, playing: null, all: () => [...panels.values()].filter((panel) => panel.home !== undefined) };
})();

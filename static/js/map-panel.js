// One picture of a map: fetches its points, draws them with Plotly, and answers the pointer and the
// keys. What is written beside it comes from the server as HTML.
"use strict";
(() => {
  const { ask, box, plotly, palette, say, here, Cloud, points: P } = window.lexiscope;
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const panels = new Map(); // element -> Panel
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const TWEEN_MS = 550;
  const TWEEN_LIMIT = 30_000; // points; above, a layer changes at once
  const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: true, doubleClick: "reset" };
  const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  // By characters: half of one would be shown as none.
  const short = (text, limit) => {
    const all = text.length > limit ? [...text] : [];
    return all.length > limit ? `${all.slice(0, limit - 1).join("")}…` : text;
  };
  const figures = (x) => (Math.abs(x) >= 1e4 || (x && Math.abs(x) < 1e-3) ? x.toExponential(2) : String(+x.toPrecision(4)));
  const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");

  // ---- what is fetched, each address once ----------------------------------------------------------

  const fetched = new Map();
  const KEPT = 40;
  async function get(url, read) {
    let answer = fetched.get(url);
    if (!answer) {
      answer = ask(url, { headers: { Accept: "*/*" } }).then(read);
      fetched.set(url, answer);
      answer.catch(() => fetched.delete(url));
      if (fetched.size > KEPT) fetched.delete(fetched.keys().next().value);
    }
    return answer;
  }
  const json = (url) => get(url, (response) => response.json());
  const bytes = (url) => get(url, (response) => response.arrayBuffer());

  // ---- one picture ------------------------------------------------------------------------------------

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
      const [Plotly, buffer, words] = await Promise.all([
        plotly(),
        bytes(this.url(urls.points, { layer: this.layer })),
        this.source.vocabulary ? json(urls.vocabulary) : null,
      ]);
      if (!this.root.isConnected) return;
      this.words = words?.labels ?? [];
      this.setRuns(this.source);
      this.places = P.columns(buffer, this.source.dims);
      this.fingerprint = fingerprint;
      this.paint();
      this.fill(this.places);
      this.size();
      await Plotly.newPlot(this.element, this.figure.data, this.figure.layout, CONFIG);
      this.under_axes();
      this.listen();
      this.index();
      this.element.dataset.ready = "yes";
      this.home = this.view();
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
        text: some ? Array.from({ length: this.runs.path.count }, (_, i) => escaped(short(this.label(this.runs.path.start + i).replace(/^␣/, ""), 16))) : [],
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
      this.cloud.draw();
    }

    size() {
      const width = this.box.clientWidth;
      const wide = this.figure.layout;
      wide.width = width;
      wide.height = Math.round(Math.min(Math.max(width * (width < 760 ? 0.82 : 0.66), 330), Math.max(innerHeight * 0.64, 420), 760));
      this.box.style.minHeight = `${wide.height}px`;
    }

    // ---- colours ----

    paint() {
      const colours = { ...palette(), other: getComputedStyle(document.documentElement).getPropertyValue("--edge").trim() };
      const { data, layout } = this.figure;
      for (const trace of data) {
        const part = trace.meta.part;
        if (part === "points" || part === "texts") {
          Object.assign(trace.marker, this.dye(part, colours));
          if (part === "texts") trace.marker.line.color = colours.surface;
        }
        if (["path", "border", "lit", "spokes"].includes(part)) {
          if (trace.marker) trace.marker.color = colours.mark;
          if (trace.line) trace.line.color = part === "spokes" ? colours.ink : colours.mark;
          if (part === "path") trace.marker.line.color = colours.surface;
          if (part === "lit") trace.marker.line.color = colours.mark;
        }
        if (part === "halo") trace.line.color = colours.surface;
        if (trace.textfont) {
          trace.textfont.color = colours.ink;
          // Plotly pales what an outline leaves out; here the server's answer is lit instead.
          if (this.flat) trace.unselected = { ...trace.unselected, textfont: { color: colours.ink } };
        }
      }
      layout.paper_bgcolor = layout.plot_bgcolor = this.flat ? "rgba(0,0,0,0)" : colours.surface;
      layout.font.color = colours.ink;
      const scene = layout.scene ?? {};
      for (const axis of [layout.xaxis, layout.yaxis, scene.xaxis, scene.yaxis, scene.zaxis]) {
        if (!axis) continue;
        axis.linecolor = axis.gridcolor = axis.zerolinecolor = colours.rule;
        axis.title.font = { ...axis.title.font, color: colours.muted };
        if (axis.tickfont) axis.tickfont.color = colours.muted;
      }
      for (const one of [layout.newselection?.line]) if (one) one.color = colours.mark;
      this.palette = colours;
      if (this.flat) {
        const list = this.coding ? P.colours(this.coding, colours) : [colours.lines[0]];
        this.cloud.colours(list, colours.surface);
        if (this.coding) {
          for (const [name, run] of [["points", this.runs.points], ["texts", this.runs.texts]]) {
            this.cloud.recode(name, this.coding.codes.subarray(run.start, run.start + run.count));
          }
        }
      }
    }

    dye(part, colours) {
      const plain = { color: colours.lines[part === "texts" ? 5 : 0] };
      if (!this.coding) return plain;
      const run = this.runs[part];
      return {
        color: this.coding.codes.subarray(run.start, run.start + run.count),
        ...P.flat(P.colours(this.coding, colours)),
        showscale: false,
      };
    }

    async colour(by) {
      if (!by || !this.source.urls.colour) return;
      const asked = ++this.asked;
      let answer;
      try {
        answer = await json(this.url(this.source.urls.colour, { layer: this.layer, by }));
      } catch (error) {
        if (asked !== this.asked || !this.root.isConnected) return;
        this.legend(null);
        this.failed(error, () => this.colour(by));
        return;
      }
      if (asked !== this.asked || !this.root.isConnected) return;
      this.coding = P.coded(answer);
      this.paint();
      if (this.flat) this.under_axes();
      else await this.redraw();
      this.legend(answer);
    }

    // A sentence above the picture's legend, with a way on.
    failed(error, again) {
      const place = $(".map-legend", this.root);
      $(".lost", place.parentNode)?.remove();
      place.before(box(error, () => {
        $(".lost", place.parentNode)?.remove();
        again();
      }));
    }

    legend(answer) {
      const place = $(".map-legend", this.root);
      if (!place) return;
      place.replaceChildren();
      if (answer) $(".lost", place.parentNode)?.remove();
      const add = (tag, text, name) => {
        const one = document.createElement(tag);
        if (text) one.textContent = text;
        if (name) one.className = name;
        place.append(one);
        return one;
      };
      if (!answer) return;
      const colours = P.colours(this.coding, this.palette);
      if (this.coding.type === "number") {
        const { low, high, unit, unknown } = this.coding;
        add("span", figures(low));
        const bar = add("span", "", "map-scale");
        const stops = [0, 12, 24, 36, 47].map((i) => colours[i]);
        bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
        add("span", `${figures(high)} ${unit}`.trim());
        if (unknown) this.swatch(place, this.palette.other, `${grouped(unknown)} without a value`);
      } else {
        this.coding.kinds.forEach((kind, i) =>
          this.swatch(place, kind.other ? this.palette.other : colours[i], kind.name, grouped(kind.count)),
        );
      }
      if (answer.caption) add("span", answer.caption, "muted map-legend-note");
    }

    swatch(place, colour, text, count = "") {
      const one = document.createElement("span");
      const dot = document.createElement("i");
      dot.style.background = colour;
      const name = document.createElement("bdi");
      name.textContent = short(text, 28);
      one.append(dot, name);
      if (count) {
        const small = document.createElement("small");
        small.textContent = count;
        one.append(small);
      }
      place.append(one);
    }

    // ---- the view ----

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

    names() {
      if (!this.flat || !this.words.length || !this.element._fullLayout) return;
      const { xaxis, yaxis } = this.element._fullLayout;
      const view = {
        x0: Math.min(...xaxis.range), x1: Math.max(...xaxis.range),
        y0: Math.min(...yaxis.range), y1: Math.max(...yaxis.range),
        width: xaxis._length, height: yaxis._length,
      };
      const { start, count } = this.runs.points;
      const wanted = $("[data-names]")?.checked ?? true;
      const path = this.runs.path.count <= 48 ? this.runs.path : { start: 0, count: 0 };
      const shown = wanted && count && start === 0 ? P.names(this.grid, view, count, (i) => this.label(i), path) : [];
      Object.assign(this.figure.data[this.trace("names")], this.pick(shown), {
        text: shown.map((i) => escaped(this.label(i).replace(/^␣/, ""))),
      });
      this.restyle("names");
    }

    restyle(...parts) {
      const list = parts.map((part) => this.trace(part));
      const fields = {};
      for (const name of ["x", "y", ...(this.flat ? [] : ["z"])]) fields[name] = list.map((i) => this.figure.data[i][name]);
      if (parts.includes("names")) fields.text = list.map((i) => this.figure.data[i].text);
      return window.Plotly.restyle(this.element, fields, list);
    }

    // ---- found, chosen, hovered ----

    light(indices, quiet = false) {
      this.lit = [...indices].filter((i) => i >= 0 && i < this.n).slice(0, 20_000);
      this.rings();
      const dots = this.flat ? this.cloud.parts.get("points") : this.figure.data[this.trace("points")].marker;
      this.dense ??= dots.opacity;
      dots.opacity = this.lit.length && !quiet ? this.dense * 0.4 : this.dense;
      return this.flat ? this.under_axes() : this.redraw();
    }

    // Lines from a point to its nearest in the model's own space: where they are long, the picture
    // has torn a neighbourhood apart.
    spokes(from, to) {
      const axes = ["x", "y", "z"].slice(0, this.source.dims);
      const lines = Object.fromEntries(
        axes.map((name, d) => [name, to.flatMap((i) => [this.places[d][from], this.places[d][i], null])]),
      );
      Object.assign(this.figure.data[this.trace("spokes")], lines);
      return this.restyle("spokes");
    }

    where(i) {
      const { xaxis, yaxis } = this.axes();
      const [x, y] = [xaxis._offset + xaxis.c2p(this.places[0][i]), yaxis._offset + yaxis.c2p(this.places[1][i])];
      const inside = x >= xaxis._offset && x <= xaxis._offset + xaxis._length && y >= yaxis._offset && y <= yaxis._offset + yaxis._length;
      return { x, y, inside };
    }

    // The ring and the words at a point; `at`: where, if the picture is in three dimensions.
    show(i, at = null) {
      this.at = i;
      const place = i < 0 || i >= this.n ? null : this.flat ? this.where(i) : at;
      const visible = place && place.inside !== false;
      this.ring.hidden = this.tip.hidden = !visible;
      if (!visible) return;
      this.ring.hidden = !this.flat;
      this.ring.style.transform = `translate(${place.x}px, ${place.y}px)`;
      this.words_of(i);
      const left = place.x > this.box.clientWidth - 190;
      const low = place.y < 70;
      this.tip.style.transform =
        `translate(${place.x}px, ${place.y}px) translate(${left ? "calc(-100% - 12px)" : "12px"}, ${low ? "12px" : "calc(-100% - 10px)"})`;
    }

    words_of(i) {
      const kind = this.run(i).kind;
      const what = { basis: "token", alone: "token by itself,", prompt: "position", text: "text" }[kind];
      const [name, small] = [document.createElement("bdi"), document.createElement("small")];
      name.textContent = short(this.label(i), kind === "text" ? 90 : 40);
      let line = `${what} ${kind === "basis" || kind === "alone" ? "#" : ""}${this.row(i)}`;
      if (this.coding?.type === "number") {
        const value = this.coding.values[i];
        line += ` · ${Number.isFinite(value) ? `${figures(value)} ${this.coding.unit}`.trim() : "no value"}`;
      } else if (this.coding) {
        line += ` · ${this.coding.names[this.coding.given[i]] ?? ""}`;
      }
      if (this.outside.has(i)) line += " · lies beyond the border";
      small.textContent = line;
      this.tip.replaceChildren(name, small);
    }

    hover(i, at) {
      if (i === this.at && !at) return;
      this.show(i, at);
      const run = i >= 0 ? this.run(i) : null;
      for (const other of panels.values()) {
        if (other === this || !other.flat || !other.places) continue;
        other.show(run ? other.same(run.kind, this.row(i)) : -1);
      }
    }

    open(i) {
      const source = document.getElementById("point");
      if (!source || i < 0) return;
      const panel = this.root.dataset.panel;
      htmx.ajax("GET", here({ point: i, of: panel }), { source, target: source, swap: "outerHTML", select: "#point" });
      history.replaceState(history.state, "", here({ point: i, of: panel }));
      say(`${this.label(i)} opened`);
    }

    // ---- another layer ----

    async go(layer) {
      const asked = ++this.moving;
      const [meta, buffer] = await Promise.all([
        json(this.url(this.source.urls.meta, { layer })),
        bytes(this.url(this.source.urls.points, { layer })),
      ]);
      if (asked !== this.moving || !this.root.isConnected) return;
      const next = P.columns(buffer, meta.dims);
      const from = this.places;
      const same = meta.n === this.n && this.flat;
      this.layer = layer;
      this.setRuns(meta);
      this.places = next;
      this.show(-1);
      this.spokes_off();
      const still = calm.matches || !same || meta.n > TWEEN_LIMIT || !["shared", "selection", "layer", "axes"].includes(this.source.projection);
      if (!still) await this.tween(from, next, asked);
      if (asked !== this.moving || !this.root.isConnected) return;
      this.fill(next);
      await this.redraw();
      this.index();
      this.names();
      if (this.coding) this.colour($("[data-colour]")?.value);
    }

    spokes_off() {
      for (const name of ["x", "y", "z"].slice(0, this.source.dims)) this.figure.data[this.trace("spokes")][name] = [];
    }

    // Straight from one linear projection to the next: the dots inside the canvas, the path by Plotly.
    async tween(from, to, asked) {
      Object.assign(this.figure.data[this.trace("names")], { x: [], y: [], text: [] });
      await this.restyle("names");
      for (const name of ["points", "texts"]) {
        const { x, y } = this.cut(this.runs[name], to);
        this.cloud.towards(name, x, y);
      }
      const lit = this.pick(this.lit, to);
      this.cloud.towards("lit", lit.x, lit.y);
      const { start, count } = this.runs.path;
      const between = [0, 1].map((d) => from[d].slice(start, start + count));
      const begin = performance.now();
      for (;;) {
        const now = await new Promise(requestAnimationFrame);
        const share = Math.min((now - begin) / TWEEN_MS, 1);
        if (share >= 1 || asked !== this.moving || !this.root.isConnected) return;
        const eased = share < 0.5 ? 2 * share * share : 1 - 2 * (1 - share) ** 2;
        this.under_axes(eased);
        if (!count) continue;
        for (const d of [0, 1]) {
          for (let i = 0; i < count; i++) between[d][i] = from[d][start + i] + (to[d][start + i] - from[d][start + i]) * eased;
        }
        const both = ["halo", "path"].map((part) => this.trace(part));
        await window.Plotly.restyle(this.element, { x: [between[0], between[0]], y: [between[1], between[1]] }, both);
      }
    }

    resize() {
      const width = this.figure.layout.width;
      this.size();
      if (width !== this.figure.layout.width) this.redraw().then(() => this.names());
    }
  }

  Object.assign(Panel.prototype, window.lexiscope.hand);
  window.lexiscope.map = { Panel, panels, calm, playing: null, all: () => [...panels.values()].filter((panel) => panel.home !== undefined) };
})();

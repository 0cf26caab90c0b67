// What is named, found, hovered and opened on a map: methods of a panel (map-panel.js).
"use strict";
(() => {
  const { say, here, names: N, common } = window.lexiscope;
  const { calm, escaped, short, figures } = common;
  const NEAR = 2500; // points in view, below which single words are named
  const FLIGHT_MS = 500;
  const $ = (selector, root = document) => root.querySelector(selector);

  window.lexiscope.look = {
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
      const name = (i) => (i >= path.start && i < path.start + path.count ? this.written(i) : this.label(i));
      const own = N.written(this.grid, view, name, path);
      const regions = wanted ? N.regions(this.regions, view, own) : { shown: [], boxes: [] };
      // Among named regions single words come when one is near.
      const near = !this.regions.length || this.crowd(view, NEAR) < NEAR;
      const some = wanted && near && count && start === 0;
      const points = some ? N.names(this.grid, view, count, name, path, regions.boxes) : [];
      const trace = this.figure.data[this.trace("names")];
      const at = points.map((one) => one.i);
      const { x, y } = this.pick(at);
      Object.assign(trace, {
        x: [...regions.shown.map((one) => one.x), ...x],
        y: [...regions.shown.map((one) => one.y), ...y],
        text: [...regions.shown.map((one) => one.text), ...at.map((i) => this.label(i).replace(/^␣/, ""))].map(escaped),
        textposition: [...regions.shown.map(() => "middle center"), ...points.map((one) => one.side)],
      });
      trace.textfont.size = [...regions.shown.map((one) => one.size), ...at.map(() => 11.5)];
      trace.textfont.weight = [...regions.shown.map((one) => one.weight), ...at.map(() => 400)];
      this.restyle("names");
    },

    // How many points are in view, as far as a limit.
    crowd(view, limit) {
      let seen = 0;
      this.grid.within(view.x0, view.x1, view.y0, view.y1, () => ++seen >= limit);
      return seen;
    },

    // To a point, near enough to see what is around it; it stays named.
    async fly(i) {
      if (!this.flat || i < 0 || i >= this.n || !this.grid) return;
      const { xaxis, yaxis } = this.axes();
      const from = [...xaxis.range, ...yaxis.range];
      const home = this.home["xaxis.range"];
      const near = Math.abs(home[1] - home[0]) * (this.n > 2000 ? 0.16 : 0.5);
      const wide = Math.min(near, Math.abs(from[1] - from[0]));
      const high = (wide * Math.abs(from[3] - from[2])) / Math.abs(from[1] - from[0]);
      const [x, y] = [this.places[0][i], this.places[1][i]];
      const to = [x - wide / 2, x + wide / 2, y - high / 2, y + high / 2];
      const asked = (this.flying = (this.flying ?? 0) + 1);
      const begin = performance.now();
      this.box.classList.add("flying"); // names stand where they stood
      for (let share = 0; share < 1 && !calm.matches; ) {
        const now = await new Promise(requestAnimationFrame);
        if (asked !== this.flying || !this.root.isConnected) return;
        share = Math.min((now - begin) / FLIGHT_MS, 1);
        const eased = share < 0.5 ? 2 * share * share : 1 - 2 * (1 - share) ** 2;
        if (share < 1) this.look_at(from.map((edge, k) => edge + (to[k] - edge) * eased));
      }
      await window.Plotly.relayout(this.element, { "xaxis.range": to.slice(0, 2), "yaxis.range": to.slice(2) });
      this.box.classList.remove("flying");
      this.show(i);
    },

    // The dots alone, where the axes will be: what stands on them follows when the flight has ended.
    look_at([x0, x1, y0, y1]) {
      Object.assign(this.cloud.now, { x0, x1, y0, y1 });
      this.nearer();
      this.cloud.draw();
    },

    light(indices, quiet = false) {
      this.lit = [...indices].filter((i) => i >= 0 && i < this.n).slice(0, 20_000);
      this.rings();
      const dots = this.flat ? this.cloud.parts.get("points") : this.figure.data[this.trace("points")].marker;
      this.dense ??= dots.opacity;
      dots.opacity = this.lit.length && !quiet ? this.dense * 0.4 : this.dense;
      return this.flat ? this.under_axes() : this.redraw();
    },

    // Lines from a point to its nearest in the model's own space: where they are long, the picture
    // has torn a neighbourhood apart.
    spokes(from, to) {
      const axes = ["x", "y", "z"].slice(0, this.source.dims);
      const lines = Object.fromEntries(
        axes.map((name, d) => [name, to.flatMap((i) => [this.places[d][from], this.places[d][i], null])]),
      );
      Object.assign(this.figure.data[this.trace("spokes")], lines);
      return this.restyle("spokes");
    },

    where(i) {
      const { xaxis, yaxis } = this.axes();
      const [x, y] = [xaxis._offset + xaxis.c2p(this.places[0][i]), yaxis._offset + yaxis.c2p(this.places[1][i])];
      const inside = x >= xaxis._offset && x <= xaxis._offset + xaxis._length && y >= yaxis._offset && y <= yaxis._offset + yaxis._length;
      return { x, y, inside };
    },

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
    },

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
    },

    hover(i, at) {
      if (i === this.at && !at) return;
      this.show(i, at);
      const run = i >= 0 ? this.run(i) : null;
      for (const other of window.lexiscope.map.panels.values()) {
        if (other === this || !other.flat || !other.places) continue;
        other.show(run ? other.same(run.kind, this.row(i)) : -1);
      }
    },

    open(i) {
      const source = document.getElementById("point");
      if (!source || i < 0) return;
      const panel = this.root.dataset.panel;
      htmx.ajax("GET", here({ point: i, of: panel }), { source, target: source, swap: "outerHTML", select: "#point" });
      history.replaceState(history.state, "", here({ point: i, of: panel }));
      say(`${this.label(i)} opened`);
    },
  };
})();

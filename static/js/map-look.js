// What is named, found, hovered and opened on a map: methods of a panel (map-panel.js).
"use strict";
(() => {
  const { say, here, points: P, common } = window.lexiscope;
  const { escaped, short, figures } = common;
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
      const shown = wanted && count && start === 0 ? P.names(this.grid, view, count, (i) => this.label(i), path) : [];
      Object.assign(this.figure.data[this.trace("names")], this.pick(shown), {
        text: shown.map((i) => escaped(this.label(i).replace(/^␣/, ""))),
      });
      this.restyle("names");
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

// The colours of a map's picture and the legend under it: methods of a panel (map-panel.js).
"use strict";
(() => {
  const { box, palette, points: P, common } = window.lexiscope;
  const { short, figures, grouped, json } = common;
  const $ = (selector, root = document) => root.querySelector(selector);

  window.lexiscope.paint = {
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
    },

    dye(part, colours) {
      const plain = { color: colours.lines[part === "texts" ? 5 : 0] };
      if (!this.coding) return plain;
      const run = this.runs[part];
      return {
        color: this.coding.codes.subarray(run.start, run.start + run.count),
        ...P.flat(P.colours(this.coding, colours)),
        showscale: false,
      };
    },

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
      this.coding = P.coded(answer, this.kinds);
      this.paint();
      if (this.flat) this.under_axes();
      else await this.redraw();
      this.legend(answer);
    },

    // A sentence above the picture's legend, with a way on.
    failed(error, again) {
      const place = $(".map-legend", this.root);
      $(".lost", place.parentNode)?.remove();
      place.before(box(error, () => {
        $(".lost", place.parentNode)?.remove();
        again();
      }));
    },

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
        const { scales, unit, unknown } = this.coding;
        const stops = [0, 12, 24, 36, 47].map((i) => colours[i]).join(", ");
        for (const { name, low, high, marks, ranked } of scales) {
          if (scales.length > 1) add("b", name);
          add("span", figures(low));
          const bar = add("span", "", "map-scale");
          bar.style.background = `linear-gradient(90deg, ${stops})`;
          if (ranked) bar.title = `By rank: a quarter of them each up to ${marks.slice(1).map(figures).join(", ")}`;
          add("span", `${figures(high)} ${unit}`.trim());
          if (ranked) add("small", `half below ${figures(marks[2])}`);
        }
        if (unknown) this.swatch(place, this.palette.other, `${grouped(unknown)} without a value`);
      } else {
        this.coding.kinds.forEach((kind, i) =>
          this.swatch(place, kind.other ? this.palette.other : colours[i], kind.name, grouped(kind.count)),
        );
      }
      if (answer.caption) add("span", answer.caption, "muted map-legend-note");
    },

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
    },
  };
})();

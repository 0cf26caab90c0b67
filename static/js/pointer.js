// What the pointer and the keys do on a picture of a map: the methods of a panel (map-panel.js) that
// look up, open, select, zoom.
"use strict";
(() => {
  const { say } = window.lexiscope;

  function thinned(corners, limit) {
    const step = Math.ceil(corners.length / limit);
    return corners.filter((_, i) => i % step === 0);
  }

  window.lexiscope.pointer = {
    listen() {
      const gd = this.element;
      this.listen_touch();
      if (!this.flat) {
        // Of a finger Plotly tells which point it met, late and not where; and once a finger has
        // touched the picture it calls each point met a click, while the picture is turned, too.
        let tapped = false;
        const met = ({ points: [point], event = this.pointer }) => {
          const run = this.runs[point.data.meta.part] ?? (point.data.meta.part === "halo" ? this.runs.path : null);
          if (!run) return;
          const box = this.box.getBoundingClientRect();
          this.hover(run.start + point.pointNumber, { x: event.clientX - box.left, y: event.clientY - box.top });
          if (tapped) this.open(this.at);
          tapped = false;
        };
        gd.addEventListener("pointerdown", (event) => {
          this.pointer = event;
          tapped = false;
        }, true);
        gd.on("plotly_hover", met);
        gd.on("plotly_click", met);
        gd.on("plotly_unhover", () => this.hover(-1));
        this.clicks((event) => {
          tapped = event.pointerType === "touch";
          if (!tapped) this.open(this.at);
        });
        return;
      }
      gd.addEventListener("pointermove", (event) => {
        this.pointer = event;
        this.waiting ??= requestAnimationFrame(() => {
          this.waiting = undefined;
          if (!this.pointer.buttons) this.hover(this.under(this.pointer));
        });
      });
      // A finger that is lifted has left, too; what it tapped stays named.
      gd.addEventListener("pointerleave", (event) => event.pointerType === "touch" || this.hover(-1));
      this.clicks((event) => {
        const i = this.under(event);
        this.hover(i);
        if (i >= 0) this.open(i);
      });
      gd.on("plotly_relayouting", () => {
        this.show(-1);
        this.under_axes();
      });
      gd.on("plotly_relayout", (change) => {
        this.under_axes();
        if (!Object.keys(change).some((name) => name.includes("axis"))) return;
        this.show(-1);
        if (!this.pinching) this.names(); // many moves in a second; at its end it names them
        if (this.told) return;
        for (const other of window.lexiscope.map.panels.values()) {
          if (other === this || !other.flat || !other.places || other.source.scale !== this.source.scale) continue;
          other.told = true;
          window.Plotly.relayout(other.element, this.view()).finally(() => (other.told = false));
        }
      });
      gd.on("plotly_selected", (event) => {
        const shape = event?.lassoPoints ?? event?.range;
        if (!shape) return;
        const { x, y } = shape;
        const corners = event.range
          ? [[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]]]
          : thinned(x.map((_, i) => [x[i], y[i]]), 500);
        this.ask(corners);
        // The shape has been read; what it holds is lit by the server's answer.
        window.Plotly.restyle(gd, { selectedpoints: [null] }).then(() => window.Plotly.relayout(gd, { selections: [] }));
      });
    },

    // Plotly listens to the mouse and keeps the click to itself; where it went down and up tells.
    // A line that comes back to where it began is no click, so the way between counts.
    clicks(answer) {
      let down = null;
      let far = 0;
      const away = (event) => {
        if (down) far = Math.max(far, Math.hypot(event.clientX - down[0], event.clientY - down[1]));
      };
      this.element.addEventListener("pointerdown", (event) => {
        // A second finger makes a pinch of it, which is no click.
        down = event.isPrimary ? [event.clientX, event.clientY] : null;
        far = 0;
      }, true);
      addEventListener("pointermove", away, { signal: this.gone.signal });
      addEventListener("pointerup", (event) => {
        if (!down) return;
        away(event);
        down = null;
        if (far <= (event.pointerType === "touch" ? 8 : 4)) answer(event);
      }, { signal: this.gone.signal });
    },

    under(event) {
      const { xaxis, yaxis, px, py } = this.axes();
      const box = this.element.getBoundingClientRect();
      const x = xaxis.p2c(event.clientX - box.left - xaxis._offset);
      const y = yaxis.p2c(event.clientY - box.top - yaxis._offset);
      const { start, count } = this.runs.points;
      // A finger is wider than a pointer. A state is drawn larger than a basis, and is caught from a
      // little farther.
      return this.grid.nearest(x, y, event.pointerType === "touch" ? 20 : 8, px, py, (i) => (i >= start && i < start + count ? 0 : 40));
    },

    // The server says what lies in the shape.
    ask(polygon) {
      const source = document.getElementById("selected");
      if (!source) return;
      const values = { polygon: polygon.map((corner) => corner.map((v) => v.toPrecision(7)).join(",")).join(" ") };
      const target = this.url(source.dataset.action, { layer: this.layer });
      htmx.ajax("POST", target, { source, target: source, swap: "outerHTML", values });
    },

    key(event) {
      const step = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
      if (!this.flat || !this.grid) return;
      if (step) {
        event.preventDefault();
        const { px, py, xaxis, yaxis } = this.axes();
        let next;
        if (this.at < 0) {
          const [x, y] = [(xaxis.range[0] + xaxis.range[1]) / 2, (yaxis.range[0] + yaxis.range[1]) / 2];
          next = this.grid.nearest(x, y, 4000, px, py);
        } else next = this.grid.towards(this.at, step[0], step[1], px, py);
        if (next < 0) return;
        this.hover(next);
        say(`${this.label(next)}, ${this.tip.lastChild?.textContent ?? ""}`);
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        this.open(this.at);
      } else if (event.key === "+" || event.key === "=" || event.key === "-") {
        event.preventDefault();
        this.zoom(event.key === "-" ? 1.5 : 1 / 1.5);
      } else if (event.key === "0" || event.key === "Escape") {
        event.preventDefault();
        this.reset();
      }
    },

    zoom(by) {
      if (!this.flat) {
        // The whole camera: after a finger has turned it, the layout knows the old upward direction.
        const camera = structuredClone(this.element._fullLayout.scene._scene.getCamera());
        for (const name of ["x", "y", "z"]) camera.eye[name] *= by;
        return window.Plotly.relayout(this.element, { "scene.camera": camera });
      }
      const { xaxis, yaxis } = this.element._fullLayout;
      const around = ([a, b]) => [(a + b) / 2 - ((b - a) / 2) * by, (a + b) / 2 + ((b - a) / 2) * by];
      return window.Plotly.relayout(this.element, { "xaxis.range": around(xaxis.range), "yaxis.range": around(yaxis.range) });
    },

    reset() {
      if (this.flat) return window.Plotly.relayout(this.element, this.home);
      return window.Plotly.relayout(this.element, { "scene.camera": this.figure.layout.scene.camera });
    },

    mode(name) {
      this.figure.layout.dragmode = name;
      this.element.dataset.mode = name;
      return window.Plotly.relayout(this.element, { dragmode: name, selections: [] });
    },
  };
})();

// A map's picture goes to another layer: methods of a panel (map-panel.js).
"use strict";
(() => {
  const { points: P, common } = window.lexiscope;
  const { calm, json, bytes } = common;
  const $ = (selector, root = document) => root.querySelector(selector);
  const TWEEN_MS = 550;
  const TWEEN_LIMIT = 30_000; // points; above, a layer changes at once

  window.lexiscope.layers = {
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
      const still = calm.matches || !same || meta.n > TWEEN_LIMIT || !this.source.glides;
      if (!still) await this.tween(from, next, asked);
      if (asked !== this.moving || !this.root.isConnected) return;
      this.index();
      this.fill(next);
      await this.redraw();
      this.names();
      if (this.coding) this.colour($("[data-colour]")?.value);
    },

    spokes_off() {
      for (const name of ["x", "y", "z"].slice(0, this.source.dims)) this.figure.data[this.trace("spokes")][name] = [];
    },

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
    },
  };
})();

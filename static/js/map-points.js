// The points of a map as typed arrays: where they lie, what is near the pointer, and what
// colour each has. Draws nothing and asks the server nothing but
// for its arrays.
"use strict";
(() => {
  const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

  // float32, point after point, as the server sends it -> one array per dimension.
  function columns(buffer, dims) {
    const flat = new Float32Array(buffer);
    const n = flat.length / dims;
    return Array.from({ length: dims }, (_, d) => {
      const out = new Float32Array(n);
      for (let i = 0; i < n; i++) out[i] = flat[i * dims + d];
      return out;
    });
  }

  // ---- what is near a place: a grid of cells, each with its points --------------------------------

  const CELLS = 160;

  class Grid {
    constructor(x, y) {
      const n = x.length;
      let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
      for (let i = 0; i < n; i++) {
        if (x[i] < x0) x0 = x[i];
        if (x[i] > x1) x1 = x[i];
        if (y[i] < y0) y0 = y[i];
        if (y[i] > y1) y1 = y[i];
      }
      Object.assign(this, { x, y, x0, y0 });
      this.sx = x1 > x0 ? (CELLS - 1e-3) / (x1 - x0) : 0;
      this.sy = y1 > y0 ? (CELLS - 1e-3) / (y1 - y0) : 0;
      const cell = new Uint32Array(n);
      this.start = new Uint32Array(CELLS * CELLS + 1);
      for (let i = 0; i < n; i++) {
        cell[i] = this.row(y[i]) * CELLS + this.column(x[i]);
        this.start[cell[i] + 1]++;
      }
      for (let c = 0; c < CELLS * CELLS; c++) this.start[c + 1] += this.start[c];
      const fill = this.start.slice();
      this.points = new Uint32Array(n);
      for (let i = 0; i < n; i++) this.points[fill[cell[i]]++] = i;
    }

    column(x) {
      return Math.min(Math.max(Math.floor((x - this.x0) * this.sx), 0), CELLS - 1);
    }

    row(y) {
      return Math.min(Math.max(Math.floor((y - this.y0) * this.sy), 0), CELLS - 1);
    }

    // Every point of a box, in no order; stops as soon as `visit` answers true.
    within(xa, xb, ya, yb, visit) {
      const [c0, c1, r0, r1] = [this.column(xa), this.column(xb), this.row(ya), this.row(yb)];
      for (let r = r0; r <= r1; r++) {
        for (let c = c0; c <= c1; c++) {
          for (let k = this.start[r * CELLS + c]; k < this.start[r * CELLS + c + 1]; k++) {
            const i = this.points[k];
            // Written so that a state without a place (NaN) is in no box.
            if (!(this.x[i] >= xa && this.x[i] <= xb && this.y[i] >= ya && this.y[i] <= yb)) continue;
            if (visit(i) === true) return;
          }
        }
      }
    }

    // The point nearest to a place, at most `reach` pixels away; `px`, `py`: pixels per unit.
    nearest(x, y, reach, px, py, bonus) {
      let [best, least] = [-1, reach * reach];
      this.within(x - reach / px, x + reach / px, y - reach / py, y + reach / py, (i) => {
        const [dx, dy] = [(this.x[i] - x) * px, (this.y[i] - y) * py];
        const far = dx * dx + dy * dy - (bonus ? bonus(i) : 0);
        if (far < least) [best, least] = [i, far];
      });
      return best;
    }

    // The next point in a direction (a unit step on screen): near, and not far off to the side.
    towards(from, sx, sy, px, py) {
      let [best, least] = [-1, Infinity];
      for (let i = 0; i < this.x.length; i++) {
        if (i === from) continue;
        const [dx, dy] = [(this.x[i] - this.x[from]) * px, (this.y[i] - this.y[from]) * py];
        const along = dx * sx + dy * sy;
        const aside = Math.abs(dx * sy - dy * sx);
        if (along < 3 || aside > along) continue;
        const cost = along + 2 * aside;
        if (cost < least) [best, least] = [i, cost];
      }
      return best;
    }
  }

  // ---- colours: each point gets a code, each code a colour ------------------------------------------

  // The page's line colours without the second: that is the mark's, and the mark is the text's own.
  // The same order as LINES in app/maps/files/drawing.py.
  const ORDER = [0, 5, 2, 3, 4, 6, 7];
  const STEPS = 48;
  const UNKNOWN = 255;

  function mix(stops, share) {
    const at = share * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const part = (stop, i) => parseInt(stop.slice(1 + 2 * i, 3 + 2 * i), 16);
    const one = (i) =>
      Math.round(part(stops[low], i) + (at - low) * (part(stops[low + 1], i) - part(stops[low], i)));
    return `#${[0, 1, 2].map((i) => one(i).toString(16).padStart(2, "0")).join("")}`;
  }

  // A scale of colours for some values: even steps from the lowest to the highest; where half of
  // them would share a few steps, even steps of the rank instead.
  const SKEWED = 0.15;
  function scale(values) {
    const sorted = values.filter(Number.isFinite).sort();
    const last = sorted.length - 1;
    if (last < 0) return { low: 0, high: 1, code: () => UNKNOWN, marks: [] };
    const [low, high] = [sorted[0], sorted[last]];
    const wide = high > low ? high - low : 1;
    const at = (share) => sorted[Math.round(share * last)];
    const middle = (at(0.5) - low) / wide;
    const ranked = high > low && (middle < SKEWED || middle > 1 - SKEWED);
    const share = (v) => {
      if (!ranked) return (v - low) / wide;
      let [a, b] = [0, last];
      while (a < b) {
        const half = (a + b) >> 1;
        if (sorted[half] < v) a = half + 1;
        else b = half;
      }
      return a / last;
    };
    const marks = [0, 0.25, 0.5, 0.75, 1].map((s) => (ranked ? at(s) : low + s * wide));
    return { low, high, ranked, marks, code: (v) => (Number.isFinite(v) ? Math.round(share(v) * (STEPS - 1)) : UNKNOWN) };
  }

  // What the server says of a colour -> {codes, kinds: [{name, count, role}]} or scales: one for the
  // bases and one for the states, which may be a thousand times as long.
  const GROUPS = { bases: ["basis"], states: ["alone", "prompt", "text"] };
  function coded(answer, runs = []) {
    if (answer.type === "number") {
      const values = new Float32Array(decode(answer.values));
      const codes = new Uint8Array(values.length).fill(UNKNOWN);
      const some = Object.entries(GROUPS)
        .map(([name, kinds]) => ({ name, own: runs.filter((run) => kinds.includes(run.kind) && run.count) }))
        .filter((group) => group.own.length);
      const scales = (some.length ? some : [{ name: "", own: [{ start: 0, count: values.length }] }]).map(({ name, own }) => {
        const found = scale(Float32Array.from(own.flatMap((run) => [...values.subarray(run.start, run.start + run.count)])));
        for (const { start, count } of own) for (let i = start; i < start + count; i++) codes[i] = found.code(values[i]);
        return { name, ...found };
      });
      const unknown = codes.reduce((sum, code) => sum + (code === UNKNOWN), 0);
      return { type: "number", codes, values, scales: scales.filter((one) => one.marks.length), unit: answer.unit ?? "", unknown };
    }
    const given = answer.dtype === "u2" ? new Uint16Array(decode(answer.codes)) : new Uint8Array(decode(answer.codes));
    // The server says which group has which colour; what has none is one more, and says how many.
    const some = answer.names.map((_, i) => i).filter((i) => answer.counts[i]);
    const own = some.filter((i) => answer.slots[i] >= 0).sort((a, b) => answer.slots[a] - answer.slots[b]);
    const place = new Uint8Array(Math.max(answer.names.length, 1)).fill(UNKNOWN);
    const kinds = [];
    for (const i of own) {
      place[i] = kinds.length;
      kinds.push({ name: answer.names[i], count: answer.counts[i], slot: answer.slots[i] });
    }
    const left = some.filter((i) => answer.slots[i] < 0);
    const rest = left.reduce((sum, i) => sum + answer.counts[i], 0);
    if (rest) kinds.push({ name: left.length > 1 ? `${left.length.toLocaleString("en-US")} others` : answer.names[left[0]], count: rest, other: true });
    return { type: "category", codes: given.map((c) => place[c]), given, names: answer.names, kinds };
  }

  // Codes -> what Plotly takes: numbers and a scale of flat steps.
  function flat(colours) {
    const k = colours.length;
    return { cmin: -0.5, cmax: k - 0.5, colorscale: colours.flatMap((c, i) => [[i / k, c], [(i + 1) / k, c]]) };
  }

  // The colours of a coding, the last for what is unknown or left over.
  function colours(coding, palette) {
    if (coding.type === "number") {
      const stops = palette.sequential.slice(1);
      return [...Array.from({ length: STEPS }, (_, i) => mix(stops, i / (STEPS - 1))), palette.other];
    }
    return [...coding.kinds.filter((k) => !k.other).map((k) => palette.lines[ORDER[k.slot]]), palette.other];
  }

  window.lexiscope.points = { columns, Grid, coded, colours, flat, decode, mix, UNKNOWN };
})();

// The points of a map as typed arrays: where they lie, what is near the pointer, which names can
// stand beside each other, and what colour each has. Draws nothing and asks the server nothing but
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

  // ---- names that can stand on the map without covering each other ----------------------------------

  const WORD = /^␣?\p{L}{3,16}$/u;

  // One name per patch of screen: among the words there, the one with the lowest token id, whole
  // words before pieces of words.
  // Of a few points all are named whose name covers no other.
  const FEW = 160;
  function few(grid, view, count, label) {
    const [px, py] = [view.width / (view.x1 - view.x0), view.height / (view.y1 - view.y0)];
    const boxes = [];
    const shown = [];
    for (let i = 0; i < count; i++) {
      const [x, y] = [(grid.x[i] - view.x0) * px, (grid.y[i] - view.y0) * py];
      if (!(x >= 0 && x <= view.width && y >= 0 && y <= view.height)) continue;
      const half = Math.min(label(i).length, 24) * 3.3 + 2;
      if (boxes.some((b) => Math.abs(b.x - x) < b.half + half && Math.abs(b.y - y) < 12.5)) continue;
      boxes.push({ x, y, half });
      shown.push(i);
    }
    return shown;
  }

  function names(grid, view, count, label, path, room = [104, 46]) {
    if (count <= FEW && !path.count) return few(grid, view, count, label);
    const across = Math.max(Math.floor(view.width / room[0]), 1);
    const down = Math.max(Math.floor(view.height / room[1]), 1);
    const taken = new Int32Array(across * down).fill(-1);
    const rank = new Float64Array(across * down).fill(Infinity);
    const [sx, sy] = [across / (view.x1 - view.x0), down / (view.y1 - view.y0)];
    grid.within(view.x0, view.x1, view.y0, view.y1, (i) => {
      if (i >= count) return;
      const c = Math.min(Math.floor((grid.x[i] - view.x0) * sx), across - 1);
      const r = Math.min(Math.floor((grid.y[i] - view.y0) * sy), down - 1);
      const place = r * across + c;
      if (i >= rank[place]) return; // a piece's rank is never below its id
      const text = label(i);
      if (!WORD.test(text)) return;
      const own = text.startsWith("␣") && text.length > 4 ? i : i + 1e9;
      if (own < rank[place]) [taken[place], rank[place]] = [i, own];
    });
    // Where the text's own tokens are written, no other name is.
    const [px, py] = [view.width / (view.x1 - view.x0), view.height / (view.y1 - view.y0)];
    const covered = (i) => {
      for (let k = path.start; k < path.start + path.count; k++) {
        if (Math.abs(grid.x[i] - grid.x[k]) * px < 62 && Math.abs(grid.y[i] - grid.y[k]) * py < 20) return true;
      }
      return false;
    };
    return [...taken].filter((i) => i >= 0 && !covered(i));
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

  // What the server says of a colour -> {codes, kinds: [{name, count, role}]} or a scale.
  function coded(answer) {
    if (answer.type === "number") {
      const values = new Float32Array(decode(answer.values));
      const [low, high] = answer.range ?? [0, 1];
      const wide = high > low ? high - low : 1;
      let unknown = 0;
      const codes = Uint8Array.from(values, (v) => {
        if (Number.isFinite(v)) return Math.round(((v - low) / wide) * (STEPS - 1));
        unknown++;
        return UNKNOWN;
      });
      return { type: "number", codes, values, low, high, unit: answer.unit ?? "", unknown };
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

  window.lexiscope.points = { columns, Grid, names, coded, colours, flat, decode, mix, UNKNOWN };
})();

// Which names stand on a map: of a few points all, of many one per patch of screen, and of a layout's
// regions those that have room, the coarse ones first. No name covers another.
"use strict";
(() => {
  const pen = document.createElement("canvas").getContext("2d");
  const family = getComputedStyle(document.documentElement).getPropertyValue("--sans");
  function width(text, size, weight = 400) {
    pen.font = `${weight} ${size}px ${family}`;
    return pen.measureText(text).width;
  }
  const meet = (a, b) => a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1;

  const WORD = /^␣?\p{L}{3,16}$/u;

  // One name per patch of screen: among the words there, the one with the lowest token id, whole
  // words before pieces of words.
  // Of a few points all are named whose name has room above, below or beside its dot.
  const FEW = 160;
  const SIDES = [["top center", 0, -1], ["bottom center", 0, 1], ["middle right", 1, 0], ["middle left", -1, 0]];
  function few(grid, view, count, label) {
    const [px, py] = [view.width / (view.x1 - view.x0), view.height / (view.y1 - view.y0)];
    const boxes = [];
    const dots = [];
    for (let i = 0; i < count; i++) {
      const [x, y] = [(grid.x[i] - view.x0) * px, (view.y1 - grid.y[i]) * py];
      if (x >= 0 && x <= view.width && y >= 0 && y <= view.height) dots.push({ i, x, y });
    }
    const shown = [];
    for (const { i, x, y } of dots) {
      const half = width(label(i).replace(/^␣/, ""), 11.5) / 2 + 1;
      for (const [side, across, up] of SIDES) {
        const middle = x + across * (half + 7);
        const box = { x0: middle - half, x1: middle + half, y0: y + up * 13 - 6.5, y1: y + up * 13 + 6.5 };
        const covers = (d) => d.i !== i && d.x > box.x0 - 4 && d.x < box.x1 + 4 && d.y > box.y0 - 4 && d.y < box.y1 + 4;
        if (box.x0 < 0 || box.x1 > view.width || boxes.some((b) => meet(b, box)) || dots.some(covers)) continue;
        boxes.push(box);
        shown.push({ i, side });
        break;
      }
    }
    return shown;
  }

  // Where a name above its dot is written.
  function box_above(grid, view, i, text, size) {
    const x = ((grid.x[i] - view.x0) * view.width) / (view.x1 - view.x0);
    const y = ((view.y1 - grid.y[i]) * view.height) / (view.y1 - view.y0);
    const half = width(text.replace(/^␣/, ""), size) / 2 + 2;
    return { x0: x - half, x1: x + half, y0: y - size - 9, y1: y - 3 };
  }

  // Where the text's own tokens are.
  function written(grid, view, label, path) {
    return Array.from({ length: path.count }, (_, k) => box_above(grid, view, path.start + k, label(path.start + k), 13));
  }

  function names(grid, view, count, label, path, taken_by = [], room = [104, 46]) {
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
    // Where a name of a region or of the text's own tokens is written, no other is; and names of two
    // patches may still meet: the better one stays.
    const box_of = (i) => box_above(grid, view, i, label(i), 11.5);
    const boxes = [...taken_by, ...written(grid, view, label, path)];
    const shown = [];
    for (const place of [...taken.keys()].sort((a, b) => rank[a] - rank[b])) {
      const i = taken[place];
      if (i < 0) continue;
      const box = box_of(i);
      if (box.x0 < 0 || box.x1 > view.width || box.y0 < 0 || boxes.some((other) => meet(other, box))) continue;
      boxes.push(box);
      shown.push({ i, side: "top center" });
    }
    return shown;
  }

  // ---- regions ------------------------------------------------------------------------------------

  const LEVELS = [{ size: 17, words: 3, weight: 650 }, { size: 14, words: 2, weight: 600 }, { size: 12.5, words: 2, weight: 500 }];
  const MOST = 70;
  const ROOM = 5; // pixels between two names

  // The regions whose names have room: large before small. One that fills the view names nothing in
  // it, one that is a speck has to wait until one is nearer.
  function regions(all, view, taken_by = []) {
    const [px, py] = [view.width / (view.x1 - view.x0), view.height / (view.y1 - view.y0)];
    const small = Math.min(view.width, view.height);
    const boxes = [...taken_by];
    const shown = [];
    for (const region of all) {
      const { size, words, weight } = LEVELS[Math.min(region.level, LEVELS.length - 1)];
      const wide = region.radius * px;
      if (wide > small * 0.45 || (region.level > 0 && wide < 9 * region.level)) continue;
      const text = region.names.slice(0, words).join(" · ");
      const [x, y] = [(region.x - view.x0) * px, (view.y1 - region.y) * py];
      const half = width(text, size, weight) / 2;
      const box = { x0: x - half - ROOM, x1: x + half + ROOM, y0: y - size * 0.7 - ROOM, y1: y + size * 0.7 + ROOM };
      if (box.x0 < 0 || box.x1 > view.width || box.y0 < 0 || box.y1 > view.height) continue;
      if (boxes.some((other) => meet(other, box))) continue;
      boxes.push(box);
      shown.push({ x: region.x, y: region.y, text, size, weight });
      if (shown.length === MOST) break;
    }
    return { shown, boxes };
  }

  // ---- completion ---------------------------------------------------------------------------------

  // The words that hold what was typed: itself first, then what begins with it, then the rest; the
  // shorter before the longer.
  function complete(words, typed, limit = 12) {
    const wanted = typed.trim();
    if (!wanted) return [];
    const low = wanted.toLowerCase();
    const best = new Map();
    for (const word of words) {
      const bare = word.replace(/^␣/, "");
      const folded = bare.toLowerCase();
      const at = folded.indexOf(low);
      if (at < 0 || !bare) continue;
      const rank = bare === wanted ? 0 : folded === low ? 1 : bare.startsWith(wanted) ? 2 : at === 0 ? 3 : 4;
      best.set(bare, Math.min(best.get(bare) ?? 9, rank));
    }
    const order = [...best].sort((a, b) => a[1] - b[1] || a[0].length - b[0].length);
    return order.slice(0, limit).map(([word]) => word);
  }

  window.lexiscope.names = { names, regions, written, complete };
})();

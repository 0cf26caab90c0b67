// Figures that show the same cells mark what is pointed at together: a cell in one grid is outlined
// in the grids beside it, and its layer stands as a line in the race; by mouse and by arrow keys.
"use strict";
(() => {
  const { palette, say } = window.lexiscope;
  const figures = new Map(); // element -> its figure
  let waiting = null; // [group, layer, column] that is drawn with the next frame; null layer: nothing

  const layersOf = (figure) => figure.layout.meta.layers;
  const isGrid = (figure) => layersOf(figure) !== undefined;

  // What is marked on one figure, as Plotly's shapes; its own shapes stay.
  function mark(element, figure, layer, column) {
    const own = (figure.layout.shapes ?? []).filter((shape) => shape.name !== "linked");
    const line = { color: palette().mark, width: 2 };
    const shapes = [...own];
    if (layer !== null && !isGrid(figure)) {
      shapes.push({ name: "linked", type: "line", x0: layer, x1: layer, yref: "paper", y0: 0, y1: 1, line: { ...line, dash: "dot" } });
    } else if (layer !== null) {
      const row = layersOf(figure).indexOf(layer);
      if (row >= 0 && column !== null) {
        shapes.push({ name: "linked", type: "rect", x0: column - 0.49, x1: column + 0.49, y0: row - 0.47, y1: row + 0.47, line, fillcolor: "rgba(0,0,0,0)" });
      }
    }
    window.Plotly.relayout(element, { shapes });
  }

  function show(group, layer, column) {
    const first = waiting === null;
    waiting = [group, layer, column];
    if (!first) return;
    requestAnimationFrame(() => {
      const [linked, at, where] = waiting;
      waiting = null;
      for (const [element, figure] of figures) {
        if (!element.isConnected) figures.delete(element);
        else if (element.dataset.linked === linked) mark(element, figure, at, where);
      }
    });
  }

  // The column whose race is drawn: that of the open cell, or the last one.
  function raced(group) {
    const [, grid] = [...figures].find(([e, f]) => e.dataset.linked === group && isGrid(f)) ?? [];
    if (!grid) return null;
    const open = document.getElementById("detail")?.dataset.position;
    const { positions } = grid.layout.meta;
    return open === undefined ? positions.length - 1 : positions.indexOf(Number(open));
  }

  function words(figure, row, column) {
    const cells = figure.data.find((trace) => trace.meta?.part === "cells");
    return String(cells?.hovertext?.[row]?.[column] ?? "").replaceAll(/<[^>]*>/g, " ");
  }

  function link(element, figure) {
    const group = element.dataset.linked;
    figures.set(element, figure);
    element.on("plotly_hover", (event) => {
      const point = event.points.find((one) => one.data.meta?.part === "cells") ?? event.points[0];
      if (isGrid(figure)) show(group, layersOf(figure)[point.y], point.x);
      else show(group, point.x, raced(group));
    });
    element.on("plotly_unhover", () => show(group, null, null));
    element.addEventListener("blur", () => show(group, null, null));
    if (element.dataset.plot === "grid") return; // its keys are those of the open cell
    let cursor = null;
    const move = (row, column) => {
      cursor = [row, column];
      show(group, layersOf(figure)[row], column);
      say(words(figure, row, column));
    };
    element.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step || !isGrid(figure)) return;
      event.preventDefault();
      const [rows, columns] = [layersOf(figure).length, figure.layout.meta.positions.length];
      const [row, column] = cursor ?? [rows - 1, columns - 1];
      const within = (value, most) => Math.min(Math.max(value, 0), most - 1);
      move(within(row + step[0], rows), within(column + step[1], columns));
    });
    element.addEventListener("focus", () => {
      if (!isGrid(figure) || !element.matches(":focus-visible")) return;
      const { layers, positions } = figure.layout.meta;
      move(...(cursor ?? [layers.length - 1, positions.length - 1]));
    });
  }

  // A kept run or a text stands on a side of Compare: whichever was chosen last.
  document.addEventListener("input", (event) => {
    const side = event.target.closest(".field");
    const kept = side?.querySelector("[data-kept] select");
    if (!kept) return;
    const text = side.querySelector("textarea");
    if (event.target === text) kept.value = "";
    else if (kept.value) text.value = kept.selectedOptions[0].dataset.text;
  });

  document.addEventListener("lexiscope:drawn", (event) => {
    if (event.target.dataset.linked) link(event.target, event.detail);
  });
  // The keys of the grid whose cells open: its cursor moved.
  document.addEventListener("lexiscope:cursor", (event) => {
    const { figure, row, column } = event.detail;
    const group = event.target.dataset.linked;
    if (group) show(group, layersOf(figure)[row], column);
  });
})();

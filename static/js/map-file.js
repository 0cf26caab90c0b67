// Draws the map of a stand-alone file. Everything it needs stands in the file; it asks nobody.
"use strict";
(() => {
  const sheet = JSON.parse(document.getElementById("sheet").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const places = new Float32Array(bytes(sheet.places).buffer);
  const kinds = bytes(sheet.kinds);
  const outside = bytes(sheet.outside);
  const codes = sheet.colour?.codes ? bytes(sheet.colour.codes) : null;
  const values = sheet.colour?.values ? new Float32Array(bytes(sheet.colour.values).buffer) : null;
  const PROMPT = 2;
  const grouped = (n) => n.toLocaleString("en-US");
  const flat = sheet.dims === 2;
  const element = document.getElementById("map");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Plotly reads a small HTML of its own in labels; a token <b> must not vanish.
  const escaped = (text) =>
    text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  function hasWebGL() {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl"));
    } catch {
      return false;
    }
  }
  const kind = flat ? (sheet.n > 2000 && hasWebGL() ? "scattergl" : "scatter") : "scatter3d";

  function where(test) {
    const out = [];
    for (let i = 0; i < sheet.n; i += 1) if (test(i)) out.push(i);
    return out;
  }

  function points(indices, more) {
    const column = (axis) => Float32Array.from(indices, (i) => places[i * sheet.dims + axis]);
    const trace = { type: kind, mode: "markers", x: column(0), y: column(1), ...more };
    if (!flat) trace.z = column(2);
    trace.text = indices.map((i) => escaped(sheet.labels[i]));
    trace.hovertemplate ??= "%{text}<extra></extra>";
    return trace;
  }

  function spread(indices) {
    const finite = indices.map((i) => values[i]).filter(Number.isFinite).sort((a, b) => a - b);
    const at = (share) => finite[Math.round(share * (finite.length - 1))];
    return finite.length ? [at(0.01), at(0.99)] : [0, 1];
  }

  function traces(theme, name) {
    const size = Math.min(Math.max(9 - Math.log10(sheet.n + 1) * 1.4, 2.6), 7) * (flat ? 1 : 0.6);
    const opacity = Math.min(Math.max(3000 / sheet.n, 0.45), 0.9);
    const cloud = where((i) => kinds[i] !== PROMPT && !outside[i]);
    const out = [];
    if (codes) {
      // The rarest are drawn last, so that no crowd covers them; the legend keeps the order.
      const rarest = sheet.colour.names.map((_, code) => code).sort((a, b) => sheet.colour.counts[b] - sheet.colour.counts[a]);
      rarest.forEach((code) => {
        const label = sheet.colour.names[code];
        const these = cloud.filter((i) => codes[i] === code);
        const color = sheet.colour[name][code];
        if (these.length) {
          out.push(points(these, { name: escaped(label), legendrank: code + 1, marker: { size, opacity, color } }));
        }
      });
    } else if (values) {
      const [cmin, cmax] = spread(cloud);
      const stops = theme.ramp.map((stop, i) => [i / (theme.ramp.length - 1), stop]);
      const colorbar = { title: { text: "", side: "right" }, thickness: 12, outlinewidth: 0 };
      const marker = {
        size, opacity, color: Float32Array.from(cloud, (i) => values[i]), colorscale: stops,
        cmin, cmax, colorbar, showscale: true,
      };
      out.push(points(cloud, { name: "points", showlegend: false, marker,
        hovertemplate: "%{text}<br>%{marker.color:.4g}<extra></extra>" }));
    } else {
      out.push(points(cloud, { name: "points", marker: { size, opacity, color: theme.first } }));
    }
    const far = where((i) => outside[i] && kinds[i] !== PROMPT);
    if (far.length) {
      out.push(points(far, {
        name: `at the border (${grouped(far.length)})`,
        hovertemplate: "%{text}<br>lies further out<extra></extra>",
        marker: { size: 8, symbol: "diamond-open", color: theme.muted },
      }));
    }
    const path = where((i) => kinds[i] === PROMPT);
    if (path.length) {
      const symbol = path.map((i) => (outside[i] ? "diamond" : "circle"));
      out.push(points(path, {
        name: "tokens of the prompt",
        ...(flat ? {} : { mode: "lines+markers+text", line: { color: theme.mark, width: 3 },
          textfont: { color: theme.ink, size: 13 } }),
        marker: { size: flat ? 9 : 5, color: theme.mark, symbol },
      }));
    }
    out.push(points([], {
      name: "found",
      showlegend: false,
      marker: { size: flat ? 13 : 8, color: "rgba(0,0,0,0)", symbol: flat ? "circle-open" : "circle",
        line: { color: theme.mark, width: 2.5 } },
      visible: false,
    }));
    return out;
  }

  // WebGL points lie above Plotly's lines, so the path is drawn as shapes, which lie above both.
  function path(theme) {
    const indices = flat ? where((i) => kinds[i] === PROMPT) : [];
    const at = indices.map((i) => [places[2 * i], places[2 * i + 1]]);
    const middle = at.reduce((sum, [x]) => sum + x / at.length, 0);
    const line = (n) => ({
      type: "line", x0: at[n - 1][0], y0: at[n - 1][1], x1: at[n][0], y1: at[n][1],
      opacity: 0.3 + (0.6 * n) / at.length, line: { color: theme.mark, width: 1.6 },
    });
    const dot = ([x, y]) => ({
      type: "circle", xsizemode: "pixel", ysizemode: "pixel", xanchor: x, yanchor: y,
      x0: -5, x1: 5, y0: -5, y1: 5, fillcolor: theme.mark, line: { color: theme.surface, width: 1.5 },
    });
    const label = ([x, y], n) => ({
      x, y, showarrow: false, borderpad: 1, bgcolor: theme.surface, opacity: 0.88,
      // The sign of a leading space would only crowd the drawing.
      text: escaped(sheet.labels[indices[n]].replace(/^␣(?=.)/, "")),
      xanchor: x < middle ? "right" : "left", xshift: x < middle ? -9 : 9, yshift: n % 2 ? 5 : -5,
      font: { size: 13, color: theme.ink },
    });
    return {
      shapes: [...at.slice(1).map((_, n) => line(n + 1)), ...at.map(dot)],
      annotations: at.length <= 60 ? at.map(label) : [],
    };
  }

  function layout(theme) {
    const one = (axis) => ({
      title: { text: escaped(sheet.axes[axis]), font: { size: 12, color: theme.muted } },
      range: sheet.ranges[axis], gridcolor: theme.rule, linecolor: theme.rule, zeroline: false,
      tickfont: { size: 11, color: theme.muted }, showspikes: false,
    });
    const scene = { xaxis: one(0), yaxis: one(1), aspectmode: "cube" };
    if (!flat) scene.zaxis = one(2);
    return {
      paper_bgcolor: theme.surface, plot_bgcolor: theme.surface, autosize: true,
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: theme.ink },
      margin: { l: 56, r: 12, t: 8, b: 48 }, hovermode: "closest", hoverdistance: 8,
      spikedistance: 20, dragmode: flat ? "pan" : "orbit",
      legend: { itemsizing: "constant", bgcolor: "rgba(0,0,0,0)", orientation: "h", y: 1, yanchor: "bottom" },
      ...path(theme),
      ...(flat
        ? { xaxis: one(0), yaxis: { ...one(1), scaleanchor: "x" } }
        : { scene }),
    };
  }

  function draw() {
    const name = dark.matches ? "dark" : "light";
    const theme = sheet.themes[name];
    const config = { responsive: true, displaylogo: false, scrollZoom: true };
    return Plotly.react(element, traces(theme, name), layout(theme), config).then(mark);
  }

  const field = document.getElementById("find");
  const output = document.getElementById("found");
  function mark() {
    const wanted = field.value.toLowerCase();
    const hits = wanted ? where((i) => sheet.labels[i].toLowerCase().includes(wanted)) : [];
    const last = element.data.length - 1;
    const trace = points(hits, {});
    const change = { x: [trace.x], y: [trace.y], text: [trace.text], visible: hits.length > 0 };
    if (!flat) change.z = [trace.z];
    output.textContent = wanted ? `${grouped(hits.length)} of ${grouped(sheet.n)}` : "";
    return Plotly.restyle(element, change, [last]);
  }

  let waiting = 0;
  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(mark, 120);
  });
  dark.addEventListener("change", draw);
  draw().then(() => element.setAttribute("data-drawn", String(sheet.n)));
})();

// The dots of a flat map on a canvas of their own, under Plotly's axes. Plotly's own WebGL dots
// compile their drawing with `eval`, which the strict Content-Security-Policy forbids; these are one
// small program, whatever the number of points, and move from layer to layer inside it.
"use strict";
(() => {
  const VERTEX = `
    attribute vec2 from; attribute vec2 to; attribute float code;
    uniform vec2 scale; uniform vec2 shift; uniform float share; uniform mediump float size;
    varying float v;
    void main() {
      gl_Position = vec4(mix(from, to, share) * scale + shift, 0.0, 1.0);
      gl_PointSize = size;
      v = (code + 0.5) / 256.0;
    }`;
  // A disc, a diamond with a light edge, or a ring; edges are one pixel soft.
  const FRAGMENT = `
    precision mediump float;
    uniform sampler2D colours; uniform float size; uniform float opacity; uniform int shape;
    uniform vec4 edge;
    varying float v;
    void main() {
      vec2 p = (gl_PointCoord - 0.5) * size;
      float r = shape == 1 ? abs(p.x) + abs(p.y) : length(p);
      float half_ = size * 0.5;
      float inside = clamp(half_ - r, 0.0, 1.0);
      vec4 dot_ = texture2D(colours, vec2(v, 0.5));
      if (shape == 3) dot_ = edge;
      if (shape == 2) { inside *= clamp(r - half_ + 2.6, 0.0, 1.0); dot_ = edge; }
      if (shape == 1) dot_ = mix(edge, dot_, clamp(half_ - r - 0.6, 0.0, 1.0));
      float a = inside * opacity;
      gl_FragColor = vec4(dot_.rgb * a, a);
    }`;
  const SHAPES = { disc: 0, diamond: 1, ring: 2, mark: 3 };

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  class Cloud {
    constructor(canvas) {
      this.canvas = canvas;
      this.parts = new Map(); // name -> {x, y, toX, toY, codes, size, opacity, shape}
      this.share = 0;
      this.near = 1; // how much nearer than at first
      canvas.addEventListener("webglcontextlost", (event) => {
        event.preventDefault();
        this.gl = null;
      });
      canvas.addEventListener("webglcontextrestored", () => {
        this.start();
        for (const part of this.parts.values()) this.upload(part);
        this.draw();
      });
      this.start();
    }

    start() {
      const gl = this.canvas.getContext("webgl", { antialias: false, premultipliedAlpha: true });
      this.gl = gl;
      if (!gl) {
        this.flat = this.canvas.getContext("2d"); // slower, and the same picture
        return;
      }
      const program = gl.createProgram();
      for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, source);
        gl.compileShader(shader);
        gl.attachShader(program, shader);
      }
      gl.linkProgram(program);
      gl.useProgram(program);
      this.at = Object.fromEntries(["from", "to", "code"].map((name) => [name, gl.getAttribLocation(program, name)]));
      this.uniform = Object.fromEntries(
        ["scale", "shift", "share", "size", "opacity", "shape", "edge", "colours"].map((name) => [name, gl.getUniformLocation(program, name)]),
      );
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
      for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    }

    // The colour of each code; the last one is that of all codes beyond.
    colours(list, edge) {
      this.list = list;
      this.edge = edge;
      const { gl } = this;
      if (!gl) return;
      const table = new Uint8Array(256 * 4);
      for (let i = 0; i < 256; i++) table.set([...rgb(list[Math.min(i, list.length - 1)]), 255], 4 * i);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table);
    }

    // The points of a part; `codes` may be left out: all of colour 0.
    place(name, x, y, codes, style) {
      const part = this.parts.get(name) ?? { name };
      Object.assign(part, { x, y, toX: x, toY: y, codes: codes ?? new Uint8Array(x.length) }, style);
      this.parts.set(name, part);
      this.upload(part);
    }

    // Where a part's points will be when `share` is 1.
    towards(name, x, y) {
      const part = this.parts.get(name);
      if (!part || part.x.length !== x.length) return;
      Object.assign(part, { toX: x, toY: y });
      this.upload(part, ["to"]);
    }

    recode(name, codes) {
      const part = this.parts.get(name);
      if (!part || codes.length !== part.x.length) return;
      part.codes = codes;
      this.upload(part, ["code"]);
    }

    upload(part, which = ["from", "to", "code"]) {
      const { gl } = this;
      if (!gl) return;
      part.buffers ??= {};
      if (part.owner !== gl) Object.assign(part, { owner: gl, buffers: {} });
      const pairs = (x, y) => {
        const out = new Float32Array(2 * x.length);
        for (let i = 0; i < x.length; i++) {
          out[2 * i] = x[i];
          out[2 * i + 1] = y[i];
        }
        return out;
      };
      for (const name of which) {
        part.buffers[name] ??= gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, part.buffers[name]);
        const data = name === "code" ? part.codes : name === "from" ? pairs(part.x, part.y) : pairs(part.toX, part.toY);
        gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
      }
    }

    // The part of the page that is drawn on, in CSS pixels, and what of the plane it shows.
    view(view) {
      this.now = view;
      const { canvas } = this;
      const ratio = window.devicePixelRatio || 1;
      const [w, h] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
      if (canvas.width !== w) canvas.width = w;
      if (canvas.height !== h) canvas.height = h;
      canvas.style.cssText = `left:${view.left}px;top:${view.top}px;width:${view.width}px;height:${view.height}px`;
      this.ratio = ratio;
    }

    // Discs grow with the root of the nearness, to nine pixels at most.
    size(part) {
      return part.shape === "disc" ? Math.min(part.size * Math.sqrt(this.near), Math.max(part.size, 9)) : part.size;
    }

    opacity(part) {
      return part.shape === "disc" ? part.opacity + (0.92 - part.opacity) * (1 - 1 / this.near) * (part.opacity > 0.3 ? 1 : 0.4) : part.opacity;
    }

    draw() {
      if (!this.now || !this.list) return;
      if (!this.gl) {
        if (this.flat) this.drawFlat();
        return;
      }
      const { gl, at, uniform, now } = this;
      gl.viewport(0, 0, this.canvas.width, this.canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      const [sx, sy] = [2 / (now.x1 - now.x0), 2 / (now.y1 - now.y0)];
      gl.uniform2f(uniform.scale, sx, sy);
      gl.uniform2f(uniform.shift, -1 - now.x0 * sx, -1 - now.y0 * sy);
      gl.uniform1f(uniform.share, this.share);
      gl.uniform1i(uniform.colours, 0);
      for (const part of this.parts.values()) {
        if (!part.x.length || !part.buffers) continue;
        for (const [name, size, type] of [["from", 2, gl.FLOAT], ["to", 2, gl.FLOAT], ["code", 1, gl.UNSIGNED_BYTE]]) {
          gl.bindBuffer(gl.ARRAY_BUFFER, part.buffers[name]);
          gl.enableVertexAttribArray(at[name]);
          gl.vertexAttribPointer(at[name], size, type, false, 0, 0);
        }
        gl.uniform1f(uniform.size, this.size(part) * this.ratio);
        gl.uniform1f(uniform.opacity, this.opacity(part));
        gl.uniform1i(uniform.shape, SHAPES[part.shape]);
        const edge = rgb(part.edge ?? this.edge).map((c) => c / 255);
        gl.uniform4f(uniform.edge, ...edge, 1);
        gl.drawArrays(gl.POINTS, 0, part.x.length);
      }
    }

    drawFlat() {
      const { flat, now, ratio, canvas } = this;
      flat.clearRect(0, 0, canvas.width, canvas.height);
      const [sx, sy] = [canvas.width / (now.x1 - now.x0), canvas.height / (now.y1 - now.y0)];
      for (const part of this.parts.values()) {
        flat.globalAlpha = this.opacity(part);
        flat.lineWidth = 1.6 * ratio;
        const radius = (this.size(part) * ratio) / 2;
        for (let i = 0; i < part.x.length; i++) {
          const x = (part.x[i] + (part.toX[i] - part.x[i]) * this.share - now.x0) * sx;
          const y = canvas.height - (part.y[i] + (part.toY[i] - part.y[i]) * this.share - now.y0) * sy;
          if (x < -9 || y < -9 || x > canvas.width + 9 || y > canvas.height + 9) continue;
          flat.beginPath();
          flat.arc(x, y, radius, 0, 2 * Math.PI);
          flat.strokeStyle = part.edge ?? this.edge;
          flat.fillStyle = part.shape === "mark" ? flat.strokeStyle : this.list[Math.min(part.codes[i], this.list.length - 1)];
          if (part.shape === "ring") flat.stroke();
          else flat.fill();
        }
      }
    }

    close() {
      this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
      this.parts.clear();
    }
  }

  window.lexiscope.Cloud = Cloud;
})();

// What the scripts of a map share: texts and numbers as people read them, and what is fetched, each
// address once.
"use strict";
(() => {
  const { ask } = window.lexiscope;
  const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  // By characters: half of one would be shown as none.
  const short = (text, limit) => {
    const all = text.length > limit ? [...text] : [];
    return all.length > limit ? `${all.slice(0, limit - 1).join("")}…` : text;
  };
  const figures = (x) => (Math.abs(x) >= 1e4 || (x && Math.abs(x) < 1e-3) ? x.toExponential(2) : String(+x.toPrecision(4)));
  const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");

  const fetched = new Map();
  const KEPT = 40;
  async function get(url, read) {
    let answer = fetched.get(url);
    if (!answer) {
      answer = ask(url, { headers: { Accept: "*/*" } }).then(read);
      fetched.set(url, answer);
      answer.catch(() => fetched.delete(url));
      if (fetched.size > KEPT) fetched.delete(fetched.keys().next().value);
    }
    return answer;
  }
  const json = (url) => get(url, (response) => response.json());
  const bytes = (url) => get(url, (response) => response.arrayBuffer());

  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  window.lexiscope.common = { calm, escaped, short, figures, grouped, json, bytes };
})();

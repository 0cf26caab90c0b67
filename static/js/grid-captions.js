// The captions of the Trace page's grid stay in view: the layers while it is scrolled sideways, the
// tokens above and below it while the page is scrolled past a grid that is higher than the window.
// They lie over the figure's own, which are there for its pictures and cannot stay.
"use strict";
(() => {
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Lays them over a drawn grid; answers with what puts them in place again.
  function lay(element, layout) {
    const { l, t, b } = layout.margin;
    const box = element.parentElement;
    const make = (name, into) => {
      const part = document.createElement("div");
      part.className = name;
      part.setAttribute("aria-hidden", "true");
      into.append(part);
      return part;
    };
    const place = (text, into, edge, at) => {
      const one = document.createElement("span");
      one.textContent = text;
      one.style[edge] = `${at}px`;
      into.append(one);
      return one;
    };
    const rows = make("grid-rows", box.parentElement);
    rows.style.width = `${l}px`;
    rows.style.height = `${layout.height}px`;
    const height = (layout.height - t - b) / layout.yaxis.ticktext.length;
    layout.yaxis.ticktext.forEach((text, i) => place(text, rows, "top", layout.height - b - (i + 0.5) * height));
    place(layout.yaxis.title.text, rows, "top", t + (layout.height - t - b) / 2).className = "grid-title";
    // What the figure shows over and under its columns, line by line: there it is text, and escaped.
    const shown = (side) => $$(`.${side}tick text`, element).map((text) => {
      const lines = $$("tspan.line", text).map((line) => line.textContent);
      return lines.length ? lines.join("\n") : text.textContent;
    });
    const moving = [[1, "x2", t], [0, "x", b]].map(([above, side, room]) => {
      const strip = make(`grid-columns ${above ? "above" : "under"}`, box.parentElement);
      strip.style.height = `${room}px`;
      const clip = make("grid-clip", strip);
      clip.style.left = `${l}px`;
      const note = layout.annotations.find((one) => one.y === above);
      const aside = place(note.text, strip, above ? "bottom" : "top", Math.abs(note.yshift));
      aside.className = "grid-aside"; // outside of the clip: few columns may be narrower than it
      aside.style.left = `${l}px`;
      const inner = make("grid-inner", clip);
      return { strip, inner, spans: shown(side).map((text) => place(text, inner, "left", 0)) };
    });
    const follow = () => {
      const end = l + element._fullLayout.xaxis._length - box.scrollLeft; // where the colour bar begins
      for (const { strip, inner } of moving) {
        strip.style.width = `${Math.min(end, box.clientWidth)}px`;
        inner.style.transform = `translateX(${-box.scrollLeft}px)`;
      }
    };
    const [above, under] = moving.map(({ strip }) => strip);
    // Neither strip goes over the other while the grid comes into the window or leaves it.
    above.style.marginBottom = `${b + 2 * height}px`;
    under.style.marginTop = `${t + 2 * height}px`;
    const spread = () => {
      const { xaxis } = element._fullLayout;
      for (const { spans } of moving) spans.forEach((span, i) => (span.style.left = `${xaxis.c2p(i)}px`));
      under.style.marginBottom = `${box.offsetHeight - box.clientHeight}px`; // the scroll bar's room
      box.parentElement.classList.toggle("high", layout.height > innerHeight);
      follow();
    };
    box.addEventListener("scroll", follow, { passive: true });
    element.on("plotly_afterplot", spread); // another width
    spread();
    return spread;
  }

  // A grid higher than the window: the page is scrolled until the row stands between the captions.
  function clear(element, layout, row) {
    const { t, b } = layout.margin;
    const axis = element._fullLayout.yaxis;
    const middle = element.getBoundingClientRect().top + axis._offset + axis.c2p(row);
    const half = Math.abs(axis._m) / 2;
    const [over, under] = [t + half - middle, middle + half + b - innerHeight];
    if (over > 0) scrollBy(0, -over);
    else if (under > 0) scrollBy(0, under);
  }

  window.lexiscope.gridCaptions = { lay, clear };
})();

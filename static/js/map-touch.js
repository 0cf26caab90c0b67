// Two fingers on a map's picture: methods of a panel (map-panel.js). One finger is Plotly's own: it
// moves the picture, or turns it in three dimensions; of a second one Plotly knows nothing.
"use strict";
(() => {
  // The middle of two fingers on the screen and how far they are apart.
  function grip([one, two]) {
    const [dx, dy] = [one.clientX - two.clientX, one.clientY - two.clientY];
    return { x: (one.clientX + two.clientX) / 2, y: (one.clientY + two.clientY) / 2, apart: Math.max(Math.hypot(dx, dy), 1) };
  }

  window.lexiscope.touch = {
    listen_touch() {
      let held = null; // the grip that the picture shows by now
      let next = null; // the grip that it is to show
      const mine = (event) => {
        event.preventDefault();
        event.stopPropagation();
      };
      const listen = (name, answer) =>
        this.element.addEventListener(name, answer, { capture: true, passive: false });
      listen("touchstart", (event) => {
        if (event.touches.length < 2) return;
        mine(event);
        // The first finger's move ends here, as if it had been a mouse that lets go.
        if (!held && this.flat) document.dispatchEvent(new MouseEvent("mouseup"));
        held = grip(event.touches);
        this.pinching = true;
      });
      listen("touchmove", (event) => {
        if (!this.pinching) return;
        mine(event);
        if (event.touches.length < 2) return;
        const waits = next !== null;
        next = grip(event.touches);
        if (waits) return;
        requestAnimationFrame(() => {
          if (held) this.pinch(held, next);
          held = held && next;
          next = null;
        });
      });
      const lift = (event) => {
        if (event.touches.length < 2) held = null;
        if (event.touches.length || !this.pinching) return;
        this.pinching = false;
        this.names();
      };
      listen("touchend", lift);
      listen("touchcancel", lift);
    },

    // What lay between the fingers before lies between them now.
    pinch(before, now) {
      const by = before.apart / now.apart;
      if (!this.flat) return this.zoom(by);
      const box = this.element.getBoundingClientRect();
      const moved = (axis, from, to) => {
        const [start, end] = [axis.p2c(from - axis._offset), axis.p2c(to - axis._offset)];
        return axis.range.map((edge) => start + (edge - end) * by);
      };
      const { xaxis, yaxis } = this.axes();
      return window.Plotly.relayout(this.element, {
        "xaxis.range": moved(xaxis, before.x - box.left, now.x - box.left),
        "yaxis.range": moved(yaxis, before.y - box.top, now.y - box.top),
      });
    },
  };
})();

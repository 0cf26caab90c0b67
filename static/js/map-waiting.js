// A picture that takes long: started from its own page, drawn while it runs, put in its place as soon
// as it is there, and measured afterwards. Without this its form leads to the page of the job.
"use strict";
(() => {
  const { above, ask, here, map, palette, points: P, Cloud } = window.lexiscope;
  const $ = (selector, root = document) => root.querySelector(selector);
  const PAUSE_MS = 700;
  const pause = () => new Promise((done) => setTimeout(done, PAUSE_MS));
  const MEASURING = /^noise floor/; // what the job says once the picture is there
  const ENDED = ["failed", "cancelled", "interrupted"];

  // The places as they are by now, fitted to where most of them lie.
  function sketch(cloud, box, buffer, dims) {
    const [x, y] = P.columns(buffer, dims);
    const bulk = (values) => {
      const sorted = values.slice().sort();
      const [a, b] = [0.01, 0.99].map((share) => sorted[Math.floor(share * (sorted.length - 1))]);
      const room = (b - a) * 0.08 || 1;
      return [a - room, b + room];
    };
    const [[x0, x1], [y0, y1]] = [bulk(x), bulk(y)];
    const colours = palette();
    cloud.colours([colours.lines[0]], colours.surface);
    cloud.place("points", x, y, undefined, { size: Math.max(1.8, Math.min(6, 420 / Math.sqrt(x.length))), opacity: 0.5, shape: "disc" });
    cloud.view({ left: 0, top: 0, width: box.clientWidth, height: box.clientHeight, x0, x1, y0, y1 });
    cloud.draw();
  }

  function show() {
    const result = $("#result");
    return window.htmx.ajax("GET", here({}), { source: result, target: result, swap: "outerHTML", select: "#result" });
  }

  async function run(place) {
    const [form, now, bar, box] = ["form", "#waiting-now", "progress", ".map-draft"].map((one) => $(one, place));
    form.hidden = true;
    $(".map-progress", place).hidden = false;
    now.textContent = "asking for it …";
    let [cloud, shown] = [null, false];
    try {
      const first = await (await ask(place.dataset.start, { method: "POST" })).json();
      if (first.ready) return await show();
      const address = `${place.dataset.jobs}/${first.job.id}`;
      $("[data-stop]", place).onclick = () => ask(`${address}/cancel`, { method: "POST" }).catch(() => {});
      for (;;) {
        const job = await (await ask(address)).json();
        if (ENDED.includes(job.state)) throw new Error(job.problem ?? "The picture was cancelled.");
        if (!shown && !place.isConnected) return;
        if (!shown && (job.state === "done" || MEASURING.test(job.note))) {
          shown = true;
          await show();
        }
        // What was measured afterwards follows the picture.
        if (job.state === "done") return await map.follow();
        if (!shown) {
          const count = job.total ? ` (${job.done} of ${job.total})` : "";
          now.textContent = job.ahead ? `${job.ahead} before it` : `${job.note || "starting"}${count}`;
          if (job.total) Object.assign(bar, { max: job.total, value: job.done });
          else bar.removeAttribute("value");
          const draft = await ask(place.dataset.draft);
          const [places, dims] = [await draft.arrayBuffer(), Number(draft.headers.get("X-Lexiscope-Points").split(",")[1])];
          if (places.byteLength && place.isConnected) {
            box.classList.add("drawn");
            cloud ??= new Cloud($(".map-cloud", box));
            sketch(cloud, box, places, dims);
          }
        }
        await pause();
      }
    } catch (error) {
      if (!place.isConnected) return;
      form.hidden = false;
      $(".map-progress", place).hidden = true;
      above(place, error, (message) => {
        message.remove();
        run(place);
      });
    } finally {
      cloud?.close();
    }
  }

  function scan(root) {
    const place = root.id === "waiting" ? root : $("#waiting", root);
    if (!place || place.dataset.seen) return;
    place.dataset.seen = "yes";
    $("form", place).addEventListener("submit", (event) => {
      event.preventDefault();
      run(place);
    });
    if ("auto" in place.dataset) run(place);
  }

  if (window.htmx) htmx.onLoad(scan);
})();

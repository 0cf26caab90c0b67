// That work goes on, said at once: what is asked for, how many come before it in the queue, and a
// button that gives it up. What an answer will replace is dimmed meanwhile.
//
// `waiting(cancel)` is called where something is asked and gives what ends it. Polls, and parts of
// a page that load themselves and say so in their own place, are left out.
"use strict";
(() => {
  const AT_ONCE = 50; // ms; what is answered sooner needs no words
  const AGAIN = 700; // ms between two looks at the queue
  const SHOWN = 4000; // ms that a last word stays
  const under = new Map(); // what is waited for → how it is given up, since when, whether it leaves the page
  let strip = null;
  let timer = 0;

  function made() {
    if (strip) return strip;
    strip = document.createElement("div");
    strip.className = "waiting";
    strip.setAttribute("role", "status");
    const text = document.createElement("span");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button quiet";
    button.textContent = "Cancel";
    button.addEventListener("click", () => {
      for (const one of [...under.values()]) one.cancel();
      under.clear();
      say("Cancelled. What stands here is the answer of before.", false);
      timer = setTimeout(hide, SHOWN);
    });
    strip.append(text, button);
    document.body.append(strip);
    return strip;
  }

  function say(sentence, more = true) {
    const { firstChild: text, lastChild: button } = made();
    if (text.textContent !== sentence) text.textContent = sentence;
    button.hidden = !more;
    strip.hidden = false;
  }

  function hide() {
    clearTimeout(timer);
    if (strip) strip.hidden = true;
  }

  const seconds = () => Math.floor((performance.now() - Math.min(...[...under.values()].map((one) => one.since))) / 1000);

  function sentence(ahead) {
    const spent = seconds() < 3 ? "" : ` for ${seconds()} s`;
    return ahead ? `${ahead} before you${spent && `, waiting${spent}`}` : `Working${spent}…`;
  }

  async function look() {
    if (!under.size) return;
    let queue = null;
    try {
      queue = await (await window.lexiscope.ask(document.body.dataset.queue)).json();
    } catch {
      // the next look, or the answer itself, will tell
    }
    if (!under.size) return;
    if (queue && !queue.own) {
      // Nothing of ours is under way: what was followed was a file to save, or has come already.
      for (const [one, { leaves, since }] of under) if (leaves && performance.now() - since > 2 * AGAIN) under.delete(one);
      if (!under.size) return hide();
    }
    say(sentence(queue?.ahead));
    timer = setTimeout(look, AGAIN);
  }

  function waiting(cancel, leaves = false) {
    const one = {};
    if (!under.size) {
      hide();
      timer = setTimeout(() => {
        say(sentence(0));
        timer = setTimeout(look, AGAIN / 2);
      }, AT_ONCE);
    }
    under.set(one, { cancel, leaves, since: performance.now() });
    return () => {
      if (under.delete(one) && !under.size) hide();
    };
  }

  // ---- what htmx asks ------------------------------------------------------------------------------------

  const ends = new WeakMap();
  const ITSELF = /\b(every|load|intersect|revealed)\b/; // what an element asks for by itself

  document.addEventListener("htmx:beforeSend", ({ detail }) => {
    const { elt, target, xhr } = detail;
    if (target?.id === "cost" || ITSELF.test(elt.getAttribute("hx-trigger") ?? "")) return;
    const dims = target && target !== document.body && !target.closest(".fades");
    if (dims) target.classList.add("stale");
    const end = waiting(() => xhr.abort());
    ends.set(xhr, () => {
      end();
      if (dims) target.classList.remove("stale");
    });
  });
  for (const name of ["htmx:afterRequest", "htmx:sendAbort", "htmx:sendError"]) {
    document.addEventListener(name, ({ detail }) => ends.get(detail.xhr)?.());
  }

  // ---- what leads to another page ------------------------------------------------------------------------

  const leave = () => waiting(() => window.stop(), true);

  window.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (event.defaultPrevented || !link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const to = new URL(link.href, location.href);
    const here = to.pathname === location.pathname && to.search === location.search;
    if (link.target || link.hasAttribute("download") || to.origin !== location.origin || (here && to.hash)) return;
    leave();
  });
  window.addEventListener("submit", (event) => {
    if (!event.defaultPrevented) leave();
  });
  window.addEventListener("pageshow", () => {
    under.clear();
    hide();
  });

  window.lexiscope.waiting = waiting;
})();

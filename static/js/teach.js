// A file that is chosen or dropped is added at once; by links and forms alone a button adds it.
// The place is swapped by htmx with the form around it, so all is heard at the document.
"use strict";
(() => {
  const input = () => document.getElementById("file");

  function add() {
    const button = document.getElementById("add-file");
    if (input()?.files.length) button.form.requestSubmit(button);
  }

  document.addEventListener("change", (event) => {
    if (event.target === input()) add();
  });

  const zone = (event) => event.target.closest?.("[data-drop]");
  const files = (event) => event.dataTransfer?.types.includes("Files");

  document.addEventListener("dragover", (event) => {
    if (!files(event)) return;
    event.preventDefault(); // a file that misses the place must not replace the page
    event.dataTransfer.dropEffect = zone(event) ? "copy" : "none";
    document.querySelector("[data-drop]")?.classList.toggle("over", Boolean(zone(event)));
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.querySelector("[data-drop]")?.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    const place = zone(event);
    document.querySelector("[data-drop]")?.classList.remove("over");
    if (!place || !event.dataTransfer.files.length) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    input().files = one.files;
    add();
  });
})();

// Views whose numbers the library computes: the page asks its server, and draws what comes back.
"use strict";

const asking = (() => {
  const { byId } = drawing;

  const post = (path, state) => fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(state),
  });

  // One question at a time for each view; of those that come meanwhile only the last is asked.
  function asker(view, show) {
    let busy = false, next = null, timer = null;
    async function ask(state) {
      if (busy) { next = state; return; }
      busy = true;
      open += 1;
      const began = performance.now();
      let found;
      try {
        const reply = await post(view, state);
        found = await reply.json();
        if (!reply.ok) found = { error: found.error };
      } catch {
        found = { error: "The server has stopped. Start linflow explore again." };
      }
      busy = false;
      show(found, state);
      times.push(performance.now() - began);
      open -= 1;
      if (next) { const state = next; next = null; ask(state); }
    }
    // A view that something else moves is asked when that rests, and leaves the server to what is looked at.
    function later(state) {
      if (timer === null) open += 1;
      else clearTimeout(timer);
      timer = setTimeout(() => { timer = null; ask(state); open -= 1; }, REST);
    }
    return { ask, later };
  }
  const REST = 150;
  const times = [];  // milliseconds from a question to its drawing
  let open = 0;  // questions without an answer

  // What every answer has: words, lines of Python, or why there is no answer.
  function said(view, found) {
    byId(view + "-words").textContent = found.error || found.words;
    if (found.code) byId(view + "-code").textContent = found.code;
    const shown = byId(view + "-shown");
    if (shown) shown.classList.toggle("stale", Boolean(found.error));
    return !found.error;
  }

  async function download(view, kind, state) {
    const reply = await post(`${view}.${kind}`, state);
    if (!reply.ok) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await reply.blob());
    link.download = `${view}.${kind}`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function buttons(view, state) {
    byId(`${view}-copy`).addEventListener("click", async event => {
      const button = event.target;
      await navigator.clipboard.writeText(byId(view + "-code").textContent);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy the lines of Python"; }, 1500);
    });
    for (const kind of ["svg", "pdf"]) byId(`${view}-${kind}`).addEventListener("click", () => download(view, kind, state()));
  }

  return { asker, buttons, said, times, pending: () => open };
})();

// The state of every view in the address of the page: a link shares it.
"use strict";

const address = (() => {
  // Each has `write()`, which returns its part by name, `read(reader)`, and `draw()`.
  const keepers = [];

  const reader = parameters => {
    const text = name => parameters.get(name) ?? "";
    const number = (name, low, high) => {
      const x = Number(text(name));
      return text(name) !== "" && Number.isFinite(x) ? drawing.clamp(x, low, high) : null;
    };
    return {
      text, number,
      whole: (name, low, high) => { const x = number(name, low, high); return x === null ? null : Math.round(x); },
      list: (name, low, high, least, most) => {
        const found = text(name).split(" ").filter(Boolean).map(Number);
        const fits = found.length >= least && found.length <= most && found.every(Number.isFinite);
        return fits ? found.map(x => drawing.clamp(x, low, high)) : null;
      },
    };
  };

  // Browsers refuse hundreds of changes in a few seconds, so while something is dragged the address waits.
  let held = false, waiting = false;

  function write() {
    const state = {};
    for (const keeper of keepers) Object.assign(state, keeper.write());
    history.replaceState(null, "", "#" + new URLSearchParams(state));
    waiting = false;
  }

  function remember() {
    if (held) waiting = true;
    else write();
  }

  function recall() {
    const found = reader(new URLSearchParams(location.hash.slice(1)));
    for (const keeper of keepers) keeper.read(found);
  }

  function again() {
    recall();
    for (const keeper of keepers) keeper.draw();
  }

  function release() {
    held = false;
    if (waiting) write();
  }

  window.addEventListener("pointerdown", () => { held = true; }, true);
  for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, release);
  window.addEventListener("hashchange", again);

  return { keepers, remember, again };
})();

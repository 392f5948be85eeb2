// Descent of two weights: the steps, drawn at once, and how far the library proves them.
"use strict";

const descending = (() => {
  const { optima, byId, make, number, frame, whole, powers, niceTicks, handle, clamp, fill, log } = drawing;

  const LONGEST = 300, TARGET = 1e-6;
  const steps = { step: 0.3 };
  const { ask, later } = asking.asker("descent", show);
  const state = () => ({ u: play.two.u, v: play.two.v, s: play.two.s, step: steps.step });
  let proved = 0, here = false;  // whether the start is moved in this view

  // The iterates, and the losses as parts of the first.
  function taken({ u, v, s, step }) {
    const first = 0.5 * (s - u * v) ** 2, path = [], losses = [];
    for (let k = 0; k <= LONGEST; k++) {
      const gap = s - u * v, loss = first > 0 ? 0.5 * gap * gap / first : 0;
      path.push([u, v]);
      losses.push([k, loss]);
      if (loss <= TARGET || !(loss < 1e6)) break;
      [u, v] = [u + step * gap * v, v + step * gap * u];
    }
    return { path, losses };
  }

  function curves() {
    const { path, losses } = taken(state());
    const plane = frame(byId("descent-plane"), { x: [-2.5, 2.5], y: [-2.5, 2.5], xlabel: "u", ylabel: "v",
      xticks: whole(-2, 2), yticks: whole(-2, 2), size: [420, 420] });
    optima(plane, play.two.s, 2.5);
    plane.line(path, "path thin");
    path.slice(0, 80).forEach(([a, b]) => {
      if (Math.abs(a) <= 2.5 && Math.abs(b) <= 2.5) make("circle", { class: "step", cx: plane.px(a), cy: plane.py(b), r: 4 }, plane.inside);
    });
    const { u, v } = play.two, go = (a, b) => {
      here = true;
      play.setTwo({ u: clamp(a, -2.5, 2.5), v: clamp(b, -2.5, 2.5) });
      here = false;
    };
    const grip = make("circle", { class: "handle", cx: plane.px(u), cy: plane.py(v), r: 11, id: "descent-start" }, plane.svg);
    handle(grip, "start of the descent", event => go(...plane.back(event)),
      (a, b) => { go(u + a, v + b); byId("descent-start").focus(); }, `u ${number(u)}, v ${number(v)}`);
    const last = Math.max(losses.length - 1, 4), top = Math.max(0.2, ...losses.map(p => Math.log10(Math.max(p[1], 1e-12))));
    const over = frame(byId("descent-loss"), { x: [0, last], y: [-6.5, Math.min(top, 6)], xlabel: "step", ylabel: "loss / initial loss",
      xticks: niceTicks(last).filter(([k]) => Number.isInteger(k)), yticks: powers(-6, Math.min(top, 6)), size: [420, 420] });
    make("rect", { class: "proved", x: over.px(0), y: 0, width: Math.max(0, over.px(Math.min(proved, last)) - over.px(0)), height: 420 }, over.inside);
    over.line(log(losses), "path thin");
    log(losses).slice(0, 80).forEach(([k, y]) => make("circle", { class: "step", cx: over.px(k), cy: over.py(y), r: 4 }, over.inside));
  }

  function show(found) {
    if (!asking.said("descent", found)) return;
    proved = (found.curves.proved || [0])[0];
    curves();
    fill("descent-numbers", [
      ["step η", number(steps.step)],
      ["steps to 10⁻⁶", found.numbers["steps taken"] ?? "not reached"],
      ["steps to 10⁻⁶, proved", found.numbers["steps proved"] ?? "no proof"],
      ["certified before the run", `η = ${number(found.numbers["certified step"] ?? Infinity)}`],
      ["edge of stability in the end", `η = ${number(found.numbers["edge of stability"] ?? Infinity)}`],
    ]);
  }

  function draw() {
    byId("out-step").textContent = number(steps.step);
    if (document.activeElement !== byId("in-step")) byId("in-step").value = Math.log10(steps.step);
    curves();
    ask(state());
  }

  // The start has changed.
  function follow() {
    curves();
    (here ? ask : later)(state());
  }

  function set(given) {
    steps.step = given.step;
    if ("u" in given) play.setTwo({ u: given.u, v: given.v, s: given.s });
    else { draw(); address.remember(); }
  }

  const write = () => ({ step: steps.step });
  const read = found => { steps.step = found.number("step", 1e-3, 2) ?? steps.step; };

  function begin() {
    byId("in-step").addEventListener("input", event => set({ step: Number(Math.pow(10, event.target.valueAsNumber).toPrecision(3)) }));
    asking.buttons("descent", state);
  }

  return { begin, steps, set, write, read, draw, follow, taken };
})();

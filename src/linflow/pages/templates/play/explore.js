// Views whose numbers the library computes: the page asks its server, and draws what comes back.
"use strict";

const explore = (() => {
  const { optima, presets, byId, make, number, frame, whole, powers, niceTicks, handle, clamp, tidy, fill } = drawing;

  const post = (path, state) => fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(state),
  });

  // One question at a time for each view; of those that come meanwhile only the last is asked.
  function asker(view, show) {
    let busy = false, next = null;
    async function ask(state) {
      if (busy) { next = state; return; }
      busy = true;
      const began = performance.now();
      try {
        const reply = await post(view, state);
        const found = await reply.json();
        show(reply.ok ? found : { error: found.error });
      } catch {
        show({ error: "The server has stopped. Start linflow explore again." });
      }
      times.push(performance.now() - began);
      busy = false;
      if (next) { const state = next; next = null; ask(state); }
    }
    return ask;
  }
  const times = [];  // milliseconds from a question to its drawing

  const log = points => points.map(([t, y]) => [t, Math.log10(Math.max(y, 1e-12))]);

  function sayCode(view, text) { byId(view + "-code").textContent = text; }

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
    for (const kind of ["svg", "pdf"]) byId(`${view}-${kind}`).addEventListener("click", () => download(view, kind, state()));
  }

  // --- two weights: the proof ---------------------------------------------------------------------------------------

  const askTwo = asker("two_weights", found => {
    byId("two_weights-words").textContent = found.error || found.words;
    if (found.code) sayCode("two_weights", found.code);
  });

  // --- two layers ---------------------------------------------------------------------------------------------------

  const layers = { n: 2, m: 2, eigenvalues: [2, 0.5, 0, -1], targets: [1, 0.5], part: 0.6 };
  const frames = {};
  const askLayers = asker("two_layers", showLayers);

  function bars(id, values, [low, high], label, change, symbol) {
    const ticks = [];
    for (let k = Math.ceil(low); k <= high; k += high - low > 6 ? 2 : 1) ticks.push([k, number(k)]);
    const found = frame(byId(id), { x: [0.5, values.length + 0.5], y: [low, high], xlabel: label, ylabel: symbol,
      xticks: values.map((_, k) => [k + 1, String(k + 1)]), yticks: ticks, size: [420, 320] });
    values.forEach((value, k) => {
      const x = found.px(k + 0.75), wide = found.px(k + 1.25) - x;
      const top = found.py(Math.max(value, 0)), base = found.py(Math.min(value, 0));
      make("rect", { class: "bar", x, y: top, width: wide, height: Math.max(0, base - top) }, found.inside);
      const grip = make("circle", { class: "handle", cx: found.px(k + 1), cy: found.py(value), r: 10, id: `${id}-${k}` }, found.svg);
      handle(grip, `${label} ${k + 1}`, event => change(k, clamp(frames[id].back(event)[1], low, high)),
        (a, b) => { change(k, clamp(values[k] + 2 * (a + b), low, high)); byId(`${id}-${k}`).focus(); }, number(value));
    });
    frames[id] = found;
  }

  function drawLayers() {
    bars("spectrum", layers.eigenvalues, [-6, 6], "eigenvalue of D", (k, value) => { layers.eigenvalues[k] = tidy(value); drawLayers(); }, "λ");
    bars("targets", layers.targets, [0, 5], "singular value of W*", (k, value) => { layers.targets[k] = tidy(value); drawLayers(); }, "σ");
    byId("in-part").value = layers.part;
    byId("out-part").textContent = number(layers.part);
    for (const name of ["n", "m"]) if (document.activeElement !== byId("in-" + name)) byId("in-" + name).value = layers[name];
    if (document.activeElement !== byId("in-h")) byId("in-h").value = layers.eigenvalues.length;
    askLayers(layers);
  }

  function showLayers(found) {
    byId("two_layers-words").textContent = found.error || found.words;
    byId("two_layers-shown").classList.toggle("stale", Boolean(found.error));
    if (found.error) return;
    sayCode("two_layers", found.code);
    const loss = found.curves.loss || [[0, 1], [1, 1]], end = Math.max(...loss.map(p => p[0]), 1e-9);
    const over = frame(byId("layers-loss"), { x: [0, end], y: [-6.5, 0.2], xlabel: "time", ylabel: "loss gap, of the first",
      xticks: niceTicks(end), yticks: powers(-6, 0), size: [420, 320] });
    over.line(log(found.curves.guarantee || []), "envelope");
    over.line(log(loss), "path");
    const rates = found.curves.plane, side = rates.length;
    const map = frame(byId("layers-map"), { x: [0, 1], y: [0, 2], xlabel: "product, part of the target", ylabel: "multiple of D",
      xticks: [[0, "0"], [0.5, "0.5"], [1, "1"]], yticks: whole(0, 2), size: [420, 320] });
    const most = Math.max(...rates.flat(), 1e-12);
    for (let i = 0; i + 1 < side; i++) for (let k = 0; k + 1 < side; k++) {
      const x = map.px(k / (side - 1)), y = map.py(2 * (i + 1) / (side - 1));
      make("rect", { class: "cell", x, y, width: map.px((k + 1) / (side - 1)) - x + 0.5, height: map.py(2 * i / (side - 1)) - y + 0.5,
        opacity: Math.sqrt(Math.min(rates[i][k], rates[i + 1][k + 1]) / most) }, map.inside);
    }
    make("circle", { class: "end", cx: map.px(clamp(layers.part, 0, 1)), cy: map.py(1), r: 7 }, map.inside);
    fill("two_layers-numbers", [
      ["guaranteed rate", number(found.numbers["guaranteed rate"])],
      ["λ_min(T) at the start", number(found.numbers["least eigenvalue of T"])],
      ["best bound on it", number(found.numbers["best bound on it"])],
      ["10⁻⁶ guaranteed by", `t = ${number(found.numbers["guaranteed by"] ?? Infinity)}`],
      ["10⁻⁶ seen at", `t = ${number(found.numbers["seen at"] ?? Infinity)}`],
    ]);
  }

  function resize(list, count, value) {
    while (list.length > count) list.pop();
    while (list.length < count) list.push(value);
  }

  // --- descent ------------------------------------------------------------------------------------------------------

  const steps = { step: 0.3 };
  const askDescent = asker("descent", showDescent);
  const descentState = () => ({ u: play.two.u, v: play.two.v, s: play.two.s, step: steps.step });

  function showDescent(found) {
    byId("descent-words").textContent = found.error || found.words;
    byId("descent-shown").classList.toggle("stale", Boolean(found.error));
    if (found.error) return;
    sayCode("descent", found.code);
    const path = found.curves.path || [[play.two.u, play.two.v]], losses = found.curves.losses || [[0, 1]];
    const plane = frame(byId("descent-plane"), { x: [-2.5, 2.5], y: [-2.5, 2.5], xlabel: "u", ylabel: "v",
      xticks: whole(-2, 2), yticks: whole(-2, 2), size: [420, 420] });
    optima(plane, play.two.s, 2.5);
    plane.line(path, "path");
    path.slice(0, 80).forEach(([a, b]) => {
      if (Math.abs(a) <= 2.5 && Math.abs(b) <= 2.5) make("circle", { class: "step", cx: plane.px(a), cy: plane.py(b), r: 3 }, plane.inside);
    });
    const last = Math.max(losses.length - 1, 4), top = Math.max(0.2, ...losses.map(p => Math.log10(Math.max(p[1], 1e-12))));
    const over = frame(byId("descent-loss"), { x: [0, last], y: [-6.5, Math.min(top, 6)], xlabel: "step", ylabel: "loss, of the first",
      xticks: niceTicks(last).filter(([k]) => Number.isInteger(k)), yticks: powers(-6, Math.min(top, 6)), size: [420, 420] });
    const proved = (found.curves.proved || [0])[0];
    make("rect", { class: "proved", x: over.px(0), y: 0, width: Math.max(0, over.px(Math.min(proved, last)) - over.px(0)), height: 420 }, over.inside);
    over.line(log(losses), "path");
    log(losses).slice(0, 80).forEach(([k, y]) => make("circle", { class: "step", cx: over.px(k), cy: over.py(y), r: 3 }, over.inside));
    fill("descent-numbers", [
      ["step η", number(steps.step)],
      ["steps to 10⁻⁶", found.numbers["steps taken"] ?? "not reached"],
      ["steps to 10⁻⁶, proved", found.numbers["steps proved"] ?? "no proof"],
      ["certified before the run", `η = ${number(found.numbers["certified step"] ?? Infinity)}`],
      ["edge of stability in the end", `η = ${number(found.numbers["edge of stability"] ?? Infinity)}`],
    ]);
  }

  function setStep(exponent) {
    steps.step = Number(Math.pow(10, exponent).toPrecision(3));
    byId("out-step").textContent = number(steps.step);
    askDescent(descentState());
  }

  function begin() {
    play.watchers.push(() => {
      askTwo({ u: play.two.u, v: play.two.v, s: play.two.s });
      askDescent(descentState());
    });
    byId("in-part").addEventListener("input", event => { layers.part = event.target.valueAsNumber; drawLayers(); });
    byId("in-step").addEventListener("input", event => setStep(event.target.valueAsNumber));
    for (const name of ["n", "m"]) {
      byId("in-" + name).addEventListener("input", event => {
        layers[name] = clamp(Math.round(event.target.valueAsNumber) || 1, 1, 6);
        resize(layers.targets, Math.min(layers.n, layers.m), 0.5);
        drawLayers();
      });
    }
    byId("in-h").addEventListener("input", event => {
      resize(layers.eigenvalues, clamp(Math.round(event.target.valueAsNumber) || 1, 1, 12), 0);
      drawLayers();
    });
    presets("layers-presets", state => { Object.assign(layers, state); drawLayers(); });
    buttons("two_weights", () => ({ u: play.two.u, v: play.two.v, s: play.two.s }));
    buttons("two_layers", () => layers);
    buttons("descent", descentState);
    play.setTwo({});
    drawLayers();
  }

  return { begin, layers, steps, times };
})();

document.addEventListener("DOMContentLoaded", () => explore.begin());

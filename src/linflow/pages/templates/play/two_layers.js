// Two layers with a prescribed imbalance: bars to drag, the loss, and the plane of starts.
"use strict";

const twoLayers = (() => {
  const { byId, make, number, frame, whole, powers, niceTicks, handle, clamp, tidy, fill, log, presets } = drawing;

  const layers = { n: 2, m: 2, eigenvalues: [2, 0.5, 0, -1], targets: [1, 0.5], part: 0.6 };
  const frames = {};
  const { ask } = asking.asker("two_layers", showLayers);

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
    ask(layers);
    address.remember();
  }

  function showLayers(found) {
    if (!asking.said("two_layers", found)) return;
    const loss = found.curves.loss || [[0, 1], [1, 1]], end = Math.max(...loss.map(p => p[0]), 1e-9);
    const over = frame(byId("layers-loss"), { x: [0, end], y: [-6.5, 0.2], xlabel: "time", ylabel: "loss gap / initial gap",
      xticks: niceTicks(end), yticks: powers(-6, 0), size: [420, 320] });
    over.line(log(found.curves.guarantee || []), "envelope");
    over.line(log(loss), "path");
    const rates = found.curves.plane, side = rates.length;
    const map = frame(byId("layers-map"), { x: [0, 1], y: [0, 2], xlabel: "product / target", ylabel: "multiple of D",
      xticks: [[0, "0"], [0.5, "0.5"], [1, "1"]], yticks: whole(0, 2), size: [420, 320] });
    const most = Math.max(...rates.flat(), 1e-12);
    for (let i = 0; i + 1 < side; i++) for (let k = 0; k + 1 < side; k++) {
      const x = map.px(k / (side - 1)), y = map.py(2 * (i + 1) / (side - 1));
      make("rect", { class: "cell", x, y, width: map.px((k + 1) / (side - 1)) - x, height: map.py(2 * i / (side - 1)) - y,
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

  function set(state) {
    Object.assign(layers, { ...state, eigenvalues: state.eigenvalues.slice(), targets: state.targets.slice() });
    drawLayers();
  }

  // The state in the address.
  function write() {
    return { n: layers.n, m: layers.m, eigenvalues: layers.eigenvalues.join(" "), targets: layers.targets.join(" "), part: layers.part };
  }

  function read(given) {
    const n = given.whole("n", 1, 6) ?? layers.n, m = given.whole("m", 1, 6) ?? layers.m, k = Math.min(n, m);
    const targets = given.list("targets", 0, 5, k, k) ?? (k === layers.targets.length ? layers.targets : null);
    if (!targets) return;
    const eigenvalues = given.list("eigenvalues", -6, 6, 1, 12) ?? layers.eigenvalues;
    Object.assign(layers, { n, m, targets, eigenvalues, part: given.number("part", -1, 2) ?? layers.part });
  }

  function begin() {
    byId("in-part").addEventListener("input", event => { layers.part = event.target.valueAsNumber; drawLayers(); });
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
    presets("layers-presets", set);
    asking.buttons("two_layers", () => layers);
  }

  return { begin, layers, set, write, read, draw: drawLayers };
})();

// Two views that follow the pointer. All numbers come from mathematics.js.
"use strict";

const play = (() => {
  const { optima, presets, byId, make, number, frame, whole, powers, niceTicks, handle, clamp, tidy, fill } = drawing;
  const { remember } = address;
  const watchers = [];  // called with the name of a view that changed

  // --- two weights ------------------------------------------------------------------------------------------------

  const current = {};  // the frames that are dragged in
  const two = { u: 1.6, v: -0.4, s: 1 };
  const REACH = 2.5;

  function drawTwo() {
    const flow = mathematics.twoWeights(two.u, two.v, two.s);
    const plane = frame(byId("plane"), { x: [-REACH, REACH], y: [-REACH, REACH], xlabel: "u", ylabel: "v",
      xticks: whole(-2, 2), yticks: whole(-2, 2), size: [420, 420] });
    optima(plane, two.s, REACH);
    const level = Array.from({ length: 241 }, (_, k) => -2.5 + k * 5 / 240);
    for (const sign of [1, -1]) {
      if (flow.d >= 0) plane.line(level.map(b => [sign * Math.sqrt(b * b + flow.d), b]), "conserved");
      else plane.line(level.map(a => [a, sign * Math.sqrt(a * a - flow.d)]), "conserved");
    }
    const ends = [flow.product0, flow.limit];
    plane.line(Array.from({ length: 121 }, (_, k) => {
      const w = ends[0] + (ends[1] - ends[0]) * k / 120;
      return mathematics.weights(two.u, two.v, w);
    }), "path");
    const end = mathematics.weights(two.u, two.v, flow.limit);
    make("circle", { class: "end", cx: plane.px(end[0]), cy: plane.py(end[1]), r: 5 }, plane.inside);
    const dot = make("circle", { class: "handle", cx: plane.px(two.u), cy: plane.py(two.v), r: 11, id: "start" }, plane.svg);
    handle(dot, "start", event => {
      const [a, b] = current.plane.back(event);
      setTwo({ u: clamp(a, -REACH, REACH), v: clamp(b, -REACH, REACH) });
    }, (a, b) => { setTwo({ u: clamp(two.u + a, -REACH, REACH), v: clamp(two.v + b, -REACH, REACH) }); byId("start").focus(); },
    `u ${number(two.u)}, v ${number(two.v)}`);
    current.plane = plane;

    const wanted = flow.timeTo(1e-6);
    const span = Number.isFinite(wanted) && wanted > 0 ? Math.min(wanted * 1.15, 60) : 10;
    const loss = frame(byId("loss"), { x: [0, span], y: [-6.5, 0.2], xlabel: "time", ylabel: "loss / initial loss",
      xticks: niceTicks(span), yticks: powers(-6, 0), size: [420, 420] });
    const times = Array.from({ length: 161 }, (_, k) => span * k / 160);
    const curve = f => times.map(t => [t, Math.log10(Math.max(f(t) / (flow.loss || 1), 1e-12))]);
    loss.line(curve(flow.oneRateAt), "one");
    loss.line(curve(flow.envelopeAt), "envelope");
    loss.line(curve(flow.lossAt), "path");

    fill("two-numbers", [
      ["conserved d = u² − v²", number(flow.d)],
      ["product uv", number(flow.product0)],
      ["margin of the start", number(flow.margin)],
      ["guaranteed rate", number(flow.guaranteed)],
      ["rate now", number(flow.rate)],
      ["rate in the end", number(flow.finalRate)],
      ["10⁻⁶ of the loss, exactly", `t = ${number(wanted)}`],
      ["10⁻⁶ guaranteed by", `t = ${number(flow.envelopeTimeTo(1e-6))}`],
    ]);
    byId("two-words").textContent = flow.loss === 0 ? "The start is optimal." : flow.stuck
      ? "The start is balanced, and its product has the wrong sign or is 0: the flow ends at the saddle u = v = 0."
      : flow.guaranteed === 0
        ? "d = 0 and no margin: nothing is guaranteed before the run. Drag the start off the diagonals, or nearer to the optima."
        : flow.margin === 0
          ? "There is no margin. The imbalance alone guarantees the rate."
          : "Imbalance and margin guarantee the rate together.";
    for (const watch of watchers) watch("two");
    for (const name of ["u", "v", "s"]) if (document.activeElement !== byId("in-" + name)) byId("in-" + name).value = two[name];
  }

  function setTwo(change) {
    Object.assign(two, change);
    two.u = tidy(two.u); two.v = tidy(two.v); two.s = tidy(two.s);
    drawTwo();
    remember();
  }

  // --- depth ------------------------------------------------------------------------------------------------------

  const deep = { layers: [1.5, 0.9, 0.6], s: 1 };
  const TALL = 2;

  function drawDeep() {
    const flow = mathematics.chain(deep.layers, deep.s), L = deep.layers.length;
    const bars = frame(byId("bars"), { x: [0.5, L + 0.5], y: [0, TALL * TALL], xlabel: "layer", ylabel: "w²",
      xticks: Array.from({ length: L }, (_, k) => [k + 1, String(k + 1)]), yticks: whole(0, 4), size: [420, 420] });
    const least = Math.min(...deep.layers.map(w => w * w));
    deep.layers.forEach((w, k) => {
      const x = bars.px(k + 0.72), wide = bars.px(k + 1.28) - x, top = bars.py(w * w), base = bars.py(0);
      make("rect", { class: "bar", x, y: top, width: wide, height: Math.max(0, base - top) }, bars.inside);
      make("line", { class: "least", x1: x, x2: x + wide, y1: bars.py(least), y2: bars.py(least) }, bars.inside);
      const grip = make("circle", { class: "handle", cx: bars.px(k + 1), cy: top, r: 11, id: `bar-${k}` }, bars.svg);
      handle(grip, `layer ${k + 1}`, event => setLayer(k, current.bars.back(event)[1]),
        (a, b) => { setLayer(k, deep.layers[k] ** 2 + 2 * (a + b)); byId(`bar-${k}`).focus(); }, `w² ${number(w * w)}`);
    });
    current.bars = bars;
    const top = Math.max(flow.exact, flow.rate, flow.finalRate, flow.closed, 0.5) * 1.1;
    const far = Math.max(Math.abs(flow.product0), Math.abs(deep.s), 0.5) * 1.1;
    const rates = frame(byId("rates"), { x: [0, far], y: [0, top], xlabel: "size of the product", ylabel: "λ(T)",
      xticks: niceTicks(far), yticks: niceTicks(top), size: [420, 420] });
    const products = Array.from({ length: 161 }, (_, k) => far * k / 160);
    const others = flow.offsets.slice().sort((a, b) => a - b).slice(1).reduce((a, b) => a * b, 1);
    rates.line(products.map(w => [w, flow.slope(w)]), "path");
    rates.line(products.map(w => [w, Math.hypot(others, L * Math.pow(w, 2 - 2 / L))]), "envelope");
    rates.line(products.map(w => [w, L * Math.pow(w, 2 - 2 / L)]), "one");
    make("line", { class: "mark", x1: rates.px(flow.margin), x2: rates.px(flow.margin), y1: rates.py(0), y2: rates.py(top) }, rates.inside);
    make("circle", { class: "end", cx: rates.px(Math.abs(flow.product0)), cy: rates.py(flow.rate), r: 6 }, rates.inside);
    fill("deep-numbers", [
      ["product", number(flow.product0)],
      ["margin of the start", number(flow.margin)],
      ["exact rate at the margin, α*", number(flow.exact)],
      ["in closed form (Prop. 3)", number(flow.closed)],
      ["balanced layers with this margin", number(flow.balanced)],
      ["imbalance alone", number(flow.imbalance)],
      ["rate now", number(flow.rate)],
      ["10⁻⁶ of the loss, exactly", `t = ${number(flow.timeTo(1e-6))}`],
      ["10⁻⁶ guaranteed by", `t = ${number(flow.exact > 0 ? Math.log(1e6) / (2 * flow.exact) : Infinity)}`],
    ]);
    byId("deep-words").textContent = flow.stuck
      ? "Two or more of the smallest layers are equal and the product has to change sign: the flow ends at a saddle."
      : flow.exact === 0 ? "No margin, and the smallest layers are equal: nothing is guaranteed. Drag one bar up or down."
        : "The bars differ by conserved amounts. Only the dashed level moves, and the curve on the right says how fast.";
    for (const watch of watchers) watch("deep");
    if (document.activeElement !== byId("in-target")) byId("in-target").value = deep.s;
    if (document.activeElement !== byId("in-depth")) byId("in-depth").value = L;
  }

  function setLayer(k, square) {
    deep.layers[k] = Math.sign(deep.layers[k] || 1) * tidy(Math.sqrt(clamp(square, 0, TALL * TALL)));
    drawDeep();
    remember();
  }

  function setDeep(state) {
    deep.layers = state.layers.slice();
    deep.s = state.s;
    drawDeep();
    remember();
  }

  function setDepth(L) {
    L = clamp(Math.round(L) || 2, 2, 8);
    while (deep.layers.length > L) deep.layers.pop();
    while (deep.layers.length < L) deep.layers.push(1);
    drawDeep();
    remember();
  }

  // --- text for a projector, the address, and the presets of the figures --------------------------------------------

  const look = {
    write: () => (document.documentElement.classList.contains("large") ? { text: "large" } : {}),
    read: found => document.documentElement.classList.toggle("large", found.text("text") === "large"),
    draw: () => byId("in-large").setAttribute("aria-pressed", String(document.documentElement.classList.contains("large"))),
  };

  const keptTwo = {
    write: () => ({ u: two.u, v: two.v, s: two.s }),
    read: found => {
      for (const name of ["u", "v"]) two[name] = found.number(name, -REACH, REACH) ?? two[name];
      two.s = found.number("s", -3, 3) ?? two.s;
    },
    draw: drawTwo,
  };

  const keptDeep = {
    write: () => ({ layers: deep.layers.join(" "), target: deep.s }),
    read: found => {
      deep.s = found.number("target", -3, 3) ?? deep.s;
      deep.layers = found.list("layers", -TALL, TALL, 2, 8) ?? deep.layers;
    },
    draw: drawDeep,
  };

  const setters = { two_weights: setTwo, depth: setDeep };  // by view: what a preset of a figure calls

  function figures() {
    for (const button of document.querySelectorAll("[data-view]")) {
      button.addEventListener("click", () => {
        setters[button.dataset.view](JSON.parse(button.dataset.state));
        const heading = byId(`${button.dataset.view}-title`);
        heading.scrollIntoView();
        heading.focus({ preventScroll: true });
      });
    }
  }

  function typed(id, apply) {
    byId(id).addEventListener("input", event => {
      const x = event.target.valueAsNumber;
      if (Number.isFinite(x)) apply(x);
    });
  }

  function begin() {
    address.keepers.push(look, keptTwo, keptDeep);
    typed("in-u", x => setTwo({ u: clamp(x, -REACH, REACH) }));
    typed("in-v", x => setTwo({ v: clamp(x, -REACH, REACH) }));
    typed("in-s", x => setTwo({ s: clamp(x, -3, 3) }));
    typed("in-target", x => { deep.s = clamp(x, -3, 3); drawDeep(); remember(); });
    typed("in-depth", setDepth);
    presets("two-presets", setTwo);
    presets("deep-presets", setDeep);
    figures();
    byId("in-large").addEventListener("click", () => {
      document.documentElement.classList.toggle("large");
      look.draw();
      remember();
    });
    address.again();
  }

  return { begin, two, deep, watchers, setters, setTwo };
})();

document.addEventListener("DOMContentLoaded", () => play.begin());

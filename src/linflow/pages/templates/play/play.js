// Two views that follow the pointer. All numbers come from mathematics.js.
"use strict";

const play = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const byId = id => document.getElementById(id);

  function make(name, attributes, parent) {
    const node = document.createElementNS(SVG, name);
    for (const key of Object.keys(attributes)) node.setAttribute(key, attributes[key]);
    parent.appendChild(node);
    return node;
  }

  const number = (x, digits = 4) => {
    if (!Number.isFinite(x)) return x > 0 ? "∞" : "–";
    if (x !== 0 && (Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3)) {
      const [head, power] = x.toExponential(2).split("e");
      const raised = String(Number(power)).replace("-", "⁻").replace(/\d/g, k => "⁰¹²³⁴⁵⁶⁷⁸⁹"[k]);
      return `${head.replace("-", "−")}·10${raised}`;
    }
    return String(Number(x.toPrecision(digits))).replace("-", "−");
  };

  // A frame with axes. `x` and `y` map data to the drawing.
  function frame(svg, { x, y, xlabel, ylabel, xticks, yticks, size }) {
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    const left = 58, right = size[0] - 12, top = 12, bottom = size[1] - 40;
    const px = a => left + (right - left) * (a - x[0]) / (x[1] - x[0]);
    const py = a => bottom - (bottom - top) * (a - y[0]) / (y[1] - y[0]);
    const clip = svg.id + "-clip";
    make("rect", { x: left, y: top, width: right - left, height: bottom - top }, make("clipPath", { id: clip }, svg));
    for (const [value, text] of xticks) {
      make("line", { class: "grid", x1: px(value), x2: px(value), y1: top, y2: bottom }, svg);
      make("text", { class: "tick", x: px(value), y: bottom + 16, "text-anchor": "middle" }, svg).textContent = text;
    }
    for (const [value, text] of yticks) {
      make("line", { class: "grid", x1: left, x2: right, y1: py(value), y2: py(value) }, svg);
      make("text", { class: "tick", x: left - 6, y: py(value) + 4, "text-anchor": "end" }, svg).textContent = text;
    }
    make("text", { class: "axis", x: (left + right) / 2, y: size[1] - 6, "text-anchor": "middle" }, svg).textContent = xlabel;
    make("text", { class: "axis", transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      svg).textContent = ylabel;
    const inside = make("g", { "clip-path": `url(#${clip})` }, svg);
    const line = (points, kind) => {
      const d = points.filter(p => Number.isFinite(p[0]) && Number.isFinite(p[1]))
        .map((p, k) => `${k ? "L" : "M"}${px(p[0]).toFixed(2)} ${py(p[1]).toFixed(2)}`).join("");
      return make("path", { class: kind, d }, inside);
    };
    return { px, py, line, inside, svg, back: event => {
      const at = svg.getScreenCTM().inverse();
      const X = at.a * event.clientX + at.e, Y = at.d * event.clientY + at.f;
      return [x[0] + (X - left) / (right - left) * (x[1] - x[0]), y[0] + (bottom - Y) / (bottom - top) * (y[1] - y[0])];
    } };
  }

  const whole = (low, high) => Array.from({ length: high - low + 1 }, (_, k) => [low + k, number(low + k)]);
  const powers = (low, high) => {
    const step = Math.max(1, Math.ceil((high - low) / 7)), ticks = [];
    for (let k = Math.ceil(low); k <= high; k += step) {
      ticks.push([k, k === 0 ? "1" : "10" + String(k).replace("-", "⁻").replace(/\d/g, q => "⁰¹²³⁴⁵⁶⁷⁸⁹"[q])]);
    }
    return ticks;
  };

  function niceTicks(end) {
    const raw = end / 5, power = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = [1, 2, 5, 10].map(k => k * power).find(k => k >= raw);
    const ticks = [];
    for (let k = 0; k * step <= end * (1 + 1e-9); k++) ticks.push([k * step, number(k * step, 3)]);
    return ticks;
  }

  // A handle that is dragged, or moved by the arrow keys. `move` takes steps of the keyboard.
  function handle(node, label, drag, move, said) {
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "slider");
    node.setAttribute("aria-label", label);
    node.setAttribute("aria-valuetext", said);
    node.addEventListener("pointerdown", event => {
      event.preventDefault();
      const follow = e => drag(e);
      const stop = () => {
        window.removeEventListener("pointermove", follow);
        window.removeEventListener("pointerup", stop);
        window.removeEventListener("pointercancel", stop);
      };
      window.addEventListener("pointermove", follow);
      window.addEventListener("pointerup", stop);
      window.addEventListener("pointercancel", stop);
    });
    node.addEventListener("keydown", event => {
      const step = (event.shiftKey ? 5 : 1) * 0.05;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
      if (moves[event.key]) { event.preventDefault(); move(...moves[event.key]); }
    });
  }

  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
  const tidy = x => Math.round(x * 1000) / 1000;

  function fill(list, rows) {
    const box = byId(list);
    box.replaceChildren();
    for (const [term, text] of rows) {
      const row = document.createElement("div");
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = text;
      row.append(dt, dd);
      box.append(row);
    }
  }

  // --- two weights ------------------------------------------------------------------------------------------------

  const current = {};  // the frames that are dragged in
  const two = { u: 1.6, v: -0.4, s: 1 };
  const REACH = 2.5;

  function drawTwo() {
    const flow = mathematics.twoWeights(two.u, two.v, two.s);
    const plane = frame(byId("plane"), { x: [-REACH, REACH], y: [-REACH, REACH], xlabel: "u", ylabel: "v",
      xticks: whole(-2, 2), yticks: whole(-2, 2), size: [420, 420] });
    const steps = Array.from({ length: 241 }, (_, k) => Math.pow(10, -2 + 2.5 * k / 240));
    if (two.s !== 0) {
      for (const sign of [1, -1]) plane.line(steps.map(a => [sign * a, sign * two.s / a]), "optima");
    } else {
      plane.line([[-REACH, 0], [REACH, 0]], "optima");
      plane.line([[0, -REACH], [0, REACH]], "optima");
    }
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
    const loss = frame(byId("loss"), { x: [0, span], y: [-6.5, 0.2], xlabel: "time", ylabel: "loss, of the first",
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
    if (document.activeElement !== byId("in-target")) byId("in-target").value = deep.s;
    if (document.activeElement !== byId("in-depth")) byId("in-depth").value = L;
  }

  function setLayer(k, square) {
    deep.layers[k] = Math.sign(deep.layers[k] || 1) * tidy(Math.sqrt(clamp(square, 0, TALL * TALL)));
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

  // --- the state in the address ------------------------------------------------------------------------------------

  function remember() {
    const state = new URLSearchParams({ u: two.u, v: two.v, s: two.s, layers: deep.layers.join(" "), target: deep.s });
    history.replaceState(null, "", "#" + state);
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    const read = (name, low, high) => {
      const x = Number(state.get(name));
      return state.has(name) && Number.isFinite(x) ? clamp(x, low, high) : null;
    };
    for (const name of ["u", "v"]) two[name] = read(name, -REACH, REACH) ?? two[name];
    two.s = read("s", -3, 3) ?? two.s;
    deep.s = read("target", -3, 3) ?? deep.s;
    const layers = (state.get("layers") || "").split(" ").filter(Boolean).map(Number);
    if (layers.length >= 2 && layers.length <= 8 && layers.every(Number.isFinite)) {
      deep.layers = layers.map(w => clamp(w, -TALL, TALL));
    }
  }

  function typed(id, apply) {
    byId(id).addEventListener("input", event => {
      const x = event.target.valueAsNumber;
      if (Number.isFinite(x)) apply(x);
    });
  }

  function presets(id, apply) {
    for (const button of byId(id).querySelectorAll("button")) {
      button.addEventListener("click", () => apply(JSON.parse(button.dataset.state)));
    }
  }

  function begin() {
    recall();
    typed("in-u", x => setTwo({ u: clamp(x, -REACH, REACH) }));
    typed("in-v", x => setTwo({ v: clamp(x, -REACH, REACH) }));
    typed("in-s", x => setTwo({ s: clamp(x, -3, 3) }));
    typed("in-target", x => { deep.s = clamp(x, -3, 3); drawDeep(); remember(); });
    typed("in-depth", setDepth);
    presets("two-presets", setTwo);
    presets("deep-presets", state => { deep.layers = state.layers.slice(); deep.s = state.s; drawDeep(); remember(); });
    window.addEventListener("hashchange", () => { recall(); drawTwo(); drawDeep(); });
    drawTwo();
    drawDeep();
  }

  return { begin, two, deep };
})();

document.addEventListener("DOMContentLoaded", play.begin);

// Neurons that turn: samples and starts to drag in the plane. The page integrates the flow, the library certifies it.
"use strict";

const neurons = (() => {
  const { byId, make, number, frame, whole, powers, niceTicks, handle, clamp, tidy, fill, log, presets } = drawing;

  const REACH = 2.4, FAR = 2.2, SPAN = 2.5, MOST = { samples: 6, neurons: 10 };
  const LOSSES = ["exponential", "logistic", "squared"];
  const state = { x: [], y: [], labels: [], a: [], b: [], signs: [], size: 1e-3, loss: "exponential", at: 0.4 };
  const NEW = { samples: [1.2, -0.6], neurons: [0.7, 0.7] };
  const { ask } = asking.asker("neurons", show);
  let found = null, answer = null;  // the flow of the page; the answer of the library, with the state that was asked
  let plane = null;

  const copy = given => Object.fromEntries(Object.entries(given).map(([k, x]) => [k, Array.isArray(x) ? x.slice() : x]));
  const start = given => JSON.stringify({ ...given, at: 0 });
  const kind = sign => (sign > 0 ? "plus" : "minus");
  const said = sign => (sign > 0 ? "positive" : "negative");
  const degrees = ([x, y]) => Math.atan2(y, x) * 180 / Math.PI;

  function cones(draw) {
    draw(turning.arcs(state, label => label > 0), "cone plus");
    draw(turning.arcs(state, label => label < 0), "cone minus");
    draw(turning.arcs(state, () => false), "cone dead");
  }

  function drawPlane() {
    plane = frame(byId("neurons-plane"), { x: [-SPAN, SPAN], y: [-SPAN, SPAN], xlabel: "first input", ylabel: "second input",
      xticks: whole(-2, 2), yticks: whole(-2, 2), size: [420, 420] });
    const centre = `M${plane.px(0)} ${plane.py(0)}`, at = (r, angle) => `${plane.px(r * Math.cos(angle))} ${plane.py(r * Math.sin(angle))}`;
    cones((arcs, name) => arcs.forEach(([low, high]) => {
      const far = 4 / Math.max(Math.cos((high - low) / 2), 0.3);
      make("path", { class: name, d: `${centre}L${at(far, low)}L${at(far, (low + high) / 2)}L${at(far, high)}Z` }, plane.inside);
    }));
    state.x.forEach((x, i) => plane.line([[4 * -state.y[i], 4 * x], [4 * state.y[i], -4 * x]], "mark"));
    const p = turning.power(found, FAR), t = state.at * found.end, now = turning.at(found, t);
    state.a.forEach((_, j) => {
      const name = kind(state.signs[j]);
      plane.line(found.kept.filter((_, k) => k % 2 === 0 || k === found.kept.length - 1).map(({ w }) => turning.tip(found, p, j, w)), `track ${name}`);
      const [x, y] = turning.tip(found, p, j, now);
      arrow(plane.px(0), plane.py(0), plane.px(x), plane.py(y), name);
    });
    state.a.forEach((_, j) => grip("neuron", j, state.a, state.b, state.signs, 8));
    state.x.forEach((_, i) => grip("sample", i, state.x, state.y, state.labels, 12));
  }

  function arrow(x0, y0, x1, y1, name) {
    make("line", { class: `arrow ${name}`, x1: x0, y1: y0, x2: x1, y2: y1 }, plane.inside);
    const length = Math.hypot(x1 - x0, y1 - y0) || 1, [c, s] = [(x1 - x0) / length, (y1 - y0) / length];
    make("path", { class: `point ${name}`, d: `M${x1 + 5 * c} ${y1 + 5 * s}L${x1 - 6 * c - 5 * s} ${y1 - 6 * s + 5 * c}L${x1 - 6 * c + 5 * s} ${y1 - 6 * s - 5 * c}Z` }, plane.inside);
  }

  function grip(word, k, xs, ys, signs, r) {
    const name = kind(signs[k]), cx = plane.px(xs[k]), cy = plane.py(ys[k]);
    const node = make("circle", { class: `handle ${word} ${name}`, cx, cy, r, id: `${word}-${k}` }, plane.svg);
    if (word === "sample") {
      make("path", { class: "sign", d: `M${cx - 5} ${cy}H${cx + 5}` + (signs[k] > 0 ? `M${cx} ${cy - 5}V${cy + 5}` : "") }, plane.svg);
    }
    const move = (x, y) => {
      xs[k] = tidy(clamp(x, -REACH, REACH));
      ys[k] = tidy(clamp(y, -REACH, REACH));
      draw();
    };
    const turn = () => { signs[k] = -signs[k]; draw(); byId(node.id).focus(); };
    handle(node, `${word} ${k + 1}`, event => move(...plane.back(event)),
      (dx, dy) => { move(xs[k] + dx, ys[k] + dy); byId(node.id).focus(); }, `${said(signs[k])}, at ${number(xs[k])}, ${number(ys[k])}`);
    node.addEventListener("dblclick", turn);
    node.addEventListener("keydown", event => { if (event.key === "Enter") { event.preventDefault(); turn(); } });
  }

  function drawAngles() {
    const end = Math.max(found.end, 1e-9);
    const over = frame(byId("neurons-angles"), { x: [0, end], y: [-180, 180], xlabel: "time", ylabel: "direction, in degrees",
      xticks: niceTicks(end), yticks: [-180, -90, 0, 90, 180].map(k => [k, number(k)]), size: [420, 420] });
    cones((arcs, name) => arcs.forEach(([low, high]) => {
      const top = over.py(high * 180 / Math.PI);
      make("rect", { class: name, x: over.px(0), y: top, width: over.px(end) - over.px(0), height: over.py(low * 180 / Math.PI) - top }, over.inside);
    }));
    state.a.forEach((_, j) => {
      let run = [];
      for (const { t, w } of found.kept) {
        const angle = degrees([w[3 * j], w[3 * j + 1]]);
        if (run.length && Math.abs(angle - run[run.length - 1][1]) > 180) {  // it leaves at the top or the bottom
          const edge = [(t + run[run.length - 1][0]) / 2, 180 * Math.sign(run[run.length - 1][1])];
          over.line([...run, edge], `track ${kind(state.signs[j])}`);
          run = [[edge[0], -edge[1]]];
        }
        run.push([t, angle]);
      }
      over.line(run, `track ${kind(state.signs[j])}`);
    });
    instants(over);
  }

  // The chosen time, and that from which nothing flips.
  function instants(over) {
    over.line([[state.at * found.end, -1e3], [state.at * found.end, 1e3]], "instant");
    const aligned = known() && answer.found.numbers["aligned from"];
    if (aligned !== null && aligned !== false) over.line([[aligned, -1e3], [aligned, 1e3]], "mark");
  }

  const known = () => answer !== null && !answer.found.error && answer.start === start(state);

  function drawLoss() {
    const end = Math.max(found.end, 1e-9), first = found.kept[0].loss || 1;
    const over = frame(byId("neurons-loss"), { x: [0, end], y: [-2, 0.2], xlabel: "time", ylabel: "loss / initial loss",
      xticks: niceTicks(end), yticks: powers(-2, 0), size: [420, 420] });
    if (known()) {
      if (answer.at === state.at) over.line(log(answer.found.curves.guarantee || []), "envelope");
      const flips = answer.found.curves.flips || [];
      for (const [t] of flips) make("line", { class: "flip", x1: over.px(t), x2: over.px(t), y1: over.py(0.2), y2: over.py(0.08) }, over.inside);
    }
    const times = Array.from({ length: 121 }, (_, k) => end * k / 120);
    over.line(log(times.map(t => [t, turning.lossAt(found, t) / first])), "path");
    if (known()) for (const [t, y] of log(answer.found.curves.loss || [])) make("circle", { class: "step", cx: over.px(t), cy: over.py(y), r: 3.5 }, over.inside);
    instants(over);
  }

  function show(given, asked) {
    answer = { found: given, start: start(asked), at: asked.at };
    if (!asking.said("neurons", given) || !given.numbers.time && given.numbers.time !== 0) return;
    if (given.curves.weights && known()) {
      found = turning.given(copy(asked), given.curves.weights);
      drawPlane();
      told();
    }
    drawAngles();
    drawLoss();
    const n = given.numbers, time = x => (x === null ? "not in this run" : `t = ${number(x)}`);
    fill("neurons-numbers", [
      ["chosen time", `t = ${number(n.time)}`],
      ["loss there / initial loss", number(n["loss now"])],
      ["flips until then", `${n["flips so far"]} of ${n.flips}`],
      ["aligned from", time(n["aligned from"])],
      ["rate −L̇/L there", number(n["rate now"])],
      ["rate guaranteed there", number(n["guaranteed rate"])],
      ["0.02 of the loss seen at", n["seen at"] === null ? "not reached" : `t = ${number(n["seen at"])}`],
      ["0.02 guaranteed by", n["guaranteed by"] === null ? "no guarantee" : `t = ${number(n["guaranteed by"])}`],
      ["least yᵢyₖ⟨xᵢ, xₖ⟩", number(n["least correlation"])],
    ]);
  }

  function told() {
    for (const [id, text] of [["out-size", number(state.size, 2)], ["out-at", `t = ${number(state.at * found.end, 3)}`]]) byId(id).textContent = text;
  }

  // `again` is false where only the time has changed.
  function draw(again = true) {
    if (again || found === null) found = turning.run(copy(state));
    drawPlane();
    drawAngles();
    drawLoss();
    told();
    for (const [id, value] of [["in-size", Math.log10(state.size)], ["in-at", state.at], ["in-loss", state.loss],
      ["in-samples", state.x.length], ["in-neurons", state.a.length]]) {
      if (document.activeElement !== byId(id)) byId(id).value = value;
    }
    ask(copy(state));
    address.remember();
  }

  function set(given) {
    Object.assign(state, copy(given));
    draw();
  }

  function resize(word, lists, count, sign) {
    const [x, y, signs] = lists;
    count = clamp(Math.round(count) || 1, 1, MOST[word]);
    for (const list of lists) list.length = Math.min(list.length, count);
    while (x.length < count) { x.push(NEW[word][0]); y.push(NEW[word][1]); signs.push(sign(x.length)); }
    draw();
  }

  // The state in the address: three numbers for each sample and neuron.
  const rows = (x, y, signs) => x.map((_, k) => `${x[k]} ${y[k]} ${signs[k]}`).join(" ");
  const write = () => ({ samples: rows(state.x, state.y, state.labels), neurons: rows(state.a, state.b, state.signs),
    size: state.size, loss: state.loss, at: state.at });

  function read(given) {
    for (const [word, names] of [["samples", ["x", "y", "labels"]], ["neurons", ["a", "b", "signs"]]]) {
      const flat = given.list(word, -REACH, REACH, 3, 3 * MOST[word]);
      if (!flat || flat.length % 3 || flat.some((x, k) => k % 3 === 2 && Math.abs(x) !== 1)) continue;
      names.forEach((name, c) => { state[name] = flat.filter((_, k) => k % 3 === c); });
    }
    state.size = given.number("size", 1e-6, 1) ?? state.size;
    state.at = given.number("at", 0, 1) ?? state.at;
    state.loss = LOSSES.includes(given.text("loss")) ? given.text("loss") : state.loss;
    found = null;
  }

  function begin() {
    byId("in-size").addEventListener("input", event => { state.size = Number(Math.pow(10, event.target.valueAsNumber).toPrecision(3)); draw(); });
    byId("in-at").addEventListener("input", event => { state.at = event.target.valueAsNumber; draw(false); });
    byId("in-loss").addEventListener("input", event => { state.loss = event.target.value; draw(); });
    byId("in-samples").addEventListener("input", event => resize("samples", [state.x, state.y, state.labels], event.target.valueAsNumber, () => 1));
    byId("in-neurons").addEventListener("input", event => resize("neurons", [state.a, state.b, state.signs], event.target.valueAsNumber, k => (k % 2 ? 1 : -1)));
    presets("neurons-presets", set);
    asking.buttons("neurons", () => state);
  }

  return { begin, state, set, write, read, draw };
})();

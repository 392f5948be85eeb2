// Which solution a flow finds: one sample to drag, a line of solutions, and the path of the product.
"use strict";

const leastNorm = (() => {
  const { byId, make, number, frame, whole, handle, clamp, tidy, fill, presets } = drawing;

  const REACH = 2.5;
  const state = { x1: 1.5, x2: 0.8, target: 1.5, width: 50, exponent: 0.5, seed: 0 };
  const { ask } = asking.asker("least_norm", show);
  let plane = null;

  // The line of solutions follows the pointer; the path comes from the library.
  function lines(answer) {
    plane = frame(byId("least_norm-plane"), { x: [-REACH, REACH], y: [-REACH, REACH], xlabel: "first entry of W, and of the sample",
      ylabel: "second entry", xticks: whole(-2, 2), yticks: whole(-2, 2), size: [420, 420] });
    const size = Math.hypot(state.x1, state.x2), [c, s] = [state.x1 / size, state.x2 / size];
    const least = [c * state.target / size, s * state.target / size];
    const along = far => [least[0] - s * far, least[1] + c * far];
    if (size > 0) plane.line([along(-9), along(9)], "optima");
    const bound = answer && answer.numbers.bound;
    if (bound) plane.line([along(-bound), along(bound)], "possible");
    if (answer) {
      const path = answer.curves.path;
      plane.line(path, "path");
      make("circle", { class: "step", cx: plane.px(path[0][0]), cy: plane.py(path[0][1]), r: 5 }, plane.inside);
    }
    if (size > 0) make("circle", { class: "end", cx: plane.px(least[0]), cy: plane.py(least[1]), r: 6 }, plane.inside);
    plane.line([[0, 0], [state.x1, state.x2]], "ray");
    const grip = make("circle", { class: "handle", cx: plane.px(state.x1), cy: plane.py(state.x2), r: 11, id: "least_norm-sample" }, plane.svg);
    const move = (a, b) => set({ x1: tidy(clamp(a, -REACH, REACH)), x2: tidy(clamp(b, -REACH, REACH)) });
    handle(grip, "the sample", event => move(...plane.back(event)),
      (a, b) => { move(state.x1 + a, state.x2 + b); byId("least_norm-sample").focus(); }, `${number(state.x1)}, ${number(state.x2)}`);
  }

  function show(found, asked) {
    if (!asking.said("least_norm", found) || JSON.stringify(asked) !== JSON.stringify(state)) return;
    lines(found);
    const n = found.numbers;
    fill("least_norm-numbers", [
      ["distance to the least norm", number(n.distance)],
      ["at most, before the run", n.bound === null ? "no bound" : number(n.bound)],
      ["size of the limit", number(n.norm)],
      ["least size of a solution", number(n["least norm"])],
      ["mixing ‖U₂[U₁ᵀ, W₂]‖", number(n.mixing)],
      ["exposure", n.exposure === null ? "no bound" : number(n.exposure)],
    ]);
  }

  function draw() {
    lines(null);
    for (const [id, value] of [["in-y", state.target], ["in-width", Math.log10(state.width)], ["in-exponent", state.exponent], ["in-seed", state.seed]]) {
      if (document.activeElement !== byId(id)) byId(id).value = value;
    }
    for (const [id, value] of [["out-y", state.target], ["out-width", state.width], ["out-exponent", state.exponent]]) byId(id).textContent = number(value);
    ask({ ...state });
    address.remember();
  }

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  const write = () => ({ x1: state.x1, x2: state.x2, y: state.target, width: state.width, exponent: state.exponent, seed: state.seed });

  function read(given) {
    const found = { x1: given.number("x1", -REACH, REACH), x2: given.number("x2", -REACH, REACH), target: given.number("y", -2, 2),
      width: given.whole("width", 2, 1000), exponent: given.number("exponent", 0, 1), seed: given.whole("seed", 0, 9999) };
    for (const [name, x] of Object.entries(found)) state[name] = x ?? state[name];
  }

  function begin() {
    const changes = { "in-y": x => ({ target: x }), "in-width": x => ({ width: Math.round(Math.pow(10, x)) }),
      "in-exponent": x => ({ exponent: x }), "in-seed": x => ({ seed: clamp(Math.round(x) || 0, 0, 9999) }) };
    for (const [id, change] of Object.entries(changes)) byId(id).addEventListener("input", event => set(change(event.target.valueAsNumber)));
    presets("least_norm-presets", set);
    asking.buttons("least_norm", () => state);
  }

  return { begin, state, set, write, read, draw };
})();

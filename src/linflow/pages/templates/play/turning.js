// The flow of a two-layer ReLU network in the plane: what the view of neurons draws before the library has answered.
"use strict";

const turning = (() => {
  // A loss of one output z with the label y, and its derivative.
  const LOSSES = {
    exponential: [(z, y) => Math.exp(-y * z), (z, y) => -y * Math.exp(-y * z)],
    logistic: [(z, y) => Math.log1p(Math.exp(-Math.abs(y * z))) + Math.max(0, -y * z), (z, y) => -y / (1 + Math.exp(y * z))],
    squared: [(z, y) => 0.5 * (z - y) ** 2, (z, y) => z - y],
  };

  // The weights are [u_1x, u_1y, v_1, u_2x, …]. Returns the loss, and writes the velocity.
  function field(state, w, out) {
    const { x, y, labels } = state, [phi, slope] = LOSSES[state.loss];
    out.fill(0);
    let loss = 0;
    for (let i = 0; i < x.length; i++) {
      let z = 0;
      for (let k = 0; k < w.length; k += 3) z += w[k + 2] * Math.max(0, w[k] * x[i] + w[k + 1] * y[i]);
      const r = slope(z, labels[i]);
      loss += phi(z, labels[i]);
      for (let k = 0; k < w.length; k += 3) {
        const pre = w[k] * x[i] + w[k + 1] * y[i];
        if (pre <= 0) continue;
        out[k] -= r * w[k + 2] * x[i];
        out[k + 1] -= r * w[k + 2] * y[i];
        out[k + 2] -= r * pre;
      }
    }
    return loss;
  }

  // Dormand and Prince, order 5.
  const STAGES = [[1 / 5], [3 / 40, 9 / 40], [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729], [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84]];
  const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];
  const TOLERANCE = 1e-6, SHORTEST = 2e-3, LONGER = 0.05, MOST = 2500;

  // The error of a step over what is allowed: a part of each neuron, small ones included.
  function excess(stages, w, h) {
    let worst = 0;
    for (let k = 0; k < w.length; k += 3) {
      let off = 0;
      for (let c = k; c < k + 3; c++) {
        let sum = 0;
        for (let j = 0; j < 7; j++) sum += ERROR[j] * stages[j][c];
        off += (h * sum) ** 2;
      }
      worst = Math.max(worst, Math.sqrt(off) / (TOLERANCE * (Math.hypot(w[k], w[k + 1], w[k + 2]) + 1e-300)));
    }
    return worst;
  }

  // Integrate to a part of the initial loss, or to a time. Where a neuron flips, the error makes steps short. Where the
  // flow holds one at 0 it would do so for ever, so the shortest step grows.
  function run(state, until = 0.02, end = 40) {
    const h0 = state.a.length, start = new Float64Array(3 * h0);
    for (let j = 0; j < h0; j++) {
      start.set([state.size * state.a[j], state.size * state.b[j], state.signs[j] * state.size * Math.hypot(state.a[j], state.b[j])], 3 * j);
    }
    const stages = Array.from({ length: 7 }, () => new Float64Array(start.length));
    let w = start, t = 0, h = 1e-2, shortest = SHORTEST, loss = field(state, w, stages[0]);
    const kept = [{ t, w, dot: stages[0].slice(), loss }], target = until * loss;
    for (let count = 0; count < MOST && t < end && loss > target; count++) {
      h = Math.min(h, end - t);
      let next = w, after = loss;
      for (let j = 0; j < 6; j++) {
        next = new Float64Array(w.length);
        for (let c = 0; c < w.length; c++) {
          let sum = 0;
          for (let i = 0; i <= j; i++) sum += STAGES[j][i] * stages[i][c];
          next[c] = w[c] + h * sum;
        }
        after = field(state, next, stages[j + 1]);
      }
      const ratio = excess(stages, w, h);
      if (!(ratio <= 1) && h > shortest) { h = Math.max(shortest, h * Math.min(0.7, Math.max(0.1, 0.9 * ratio ** -0.2 || 0.1))); continue; }
      if (!Number.isFinite(after)) break;
      if (!(ratio <= 1)) shortest = Math.min(LONGER, shortest * 1.01);
      t += h; w = next; loss = after;
      stages[0].set(stages[6]);
      kept.push({ t, w, dot: stages[6].slice(), loss });
      h *= Math.min(4, Math.max(0.3, 0.9 * Math.max(ratio, 1e-9) ** -0.2));
    }
    const found = { state, kept, end: t };
    if (loss < target) found.end = crossing(found, target);
    return found;
  }

  // The flow of the library in the place of that of the page, which does not follow neurons that slide along a kink.
  function given(state, rows) {
    const kept = rows.map(([t, loss, ...w]) => ({ t, loss, w: Float64Array.from(w) }));
    return { state, kept, end: kept[kept.length - 1].t };
  }

  // The time at which the loss meets the target, in the last step.
  function crossing(found, target) {
    const out = new Float64Array(found.kept[0].w.length);
    let low = found.kept[found.kept.length - 2].t, high = found.kept[found.kept.length - 1].t;
    for (let k = 0; k < 50; k++) {
      const middle = (low + high) / 2;
      if (field(found.state, at(found, middle), out) > target) low = middle; else high = middle;
    }
    return high;
  }

  // The weights at a time: the cubic between two steps.
  function at(found, t) {
    const { kept } = found;
    let low = 0, high = kept.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (kept[middle].t <= t) low = middle; else high = middle; }
    if (high === 0 || t >= kept[high].t) return kept[high].w;
    const a = kept[low], b = kept[high], h = b.t - a.t, s = (t - a.t) / h;
    if (!a.dot) return a.w.map((x, c) => x + s * (b.w[c] - x));
    return a.w.map((x, c) => (1 + 2 * s) * (1 - s) ** 2 * x + s * (1 - s) ** 2 * h * a.dot[c]
      + s * s * (3 - 2 * s) * b.w[c] - s * s * (1 - s) * h * b.dot[c]);
  }

  const lossAt = (found, t) => field(found.state, at(found, t), new Float64Array(found.kept[0].w.length));

  // Where arrows end: ‖u(0)‖ (‖u(t)‖/‖u(0)‖)^p in the direction of u(t), p ≤ 1 such that the longest reaches `far`.
  function power(found, far) {
    let largest = 1, longest = 0;
    const first = found.kept[0].w;
    for (let k = 0; k < first.length; k += 3) {
      const begin = Math.hypot(first[k], first[k + 1]);
      longest = Math.max(longest, begin / found.state.size);
      if (begin > 0) for (const { w } of found.kept) largest = Math.max(largest, Math.hypot(w[k], w[k + 1]) / begin);
    }
    return largest > 1 ? Math.min(1, Math.log(Math.max(far / longest, 1 + 1e-9)) / Math.log(largest)) : 1;
  }

  function tip(found, p, j, w) {
    const begin = Math.hypot(found.state.a[j], found.state.b[j]), length = Math.hypot(w[3 * j], w[3 * j + 1]);
    if (!(length > 0) || !(begin > 0)) return [0, 0];
    const scale = begin * Math.pow(length / (found.state.size * begin), p) / length;
    return [scale * w[3 * j], scale * w[3 * j + 1]];
  }

  // Directions in which a neuron is on for exactly some samples: arcs [from, to] of angles.
  function arcs(state, wanted) {
    const ends = new Set([-Math.PI, Math.PI]);
    for (let i = 0; i < state.x.length; i++) {
      const angle = Math.atan2(state.y[i], state.x[i]);
      for (const side of [-1, 1]) ends.add(Math.atan2(Math.sin(angle + side * Math.PI / 2), Math.cos(angle + side * Math.PI / 2)));
    }
    const sorted = [...ends].sort((a, b) => a - b), found = [];
    for (let k = 0; k + 1 < sorted.length; k++) {
      const middle = (sorted[k] + sorted[k + 1]) / 2;
      const on = state.x.map((x, i) => x * Math.cos(middle) + state.y[i] * Math.sin(middle) > 0);
      if (on.every((is, i) => is === wanted(state.labels[i]))) found.push([sorted[k], sorted[k + 1]]);
    }
    return found;
  }

  return { run, given, at, lossAt, power, tip, arcs };
})();

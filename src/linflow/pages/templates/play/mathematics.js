// Gradient flow of scalar weights in closed form: the formulas of linflow.exact and linflow.bounds.
"use strict";

const mathematics = (() => {
  // The product w(t) of ẇ = 2 sqrt(b² + w²) (s − w) from w0, without cancellation (linflow.exact.two_layer_scalar).
  function riccati(b, s, w0, t) {
    if (w0 < 0) return -riccati(b, -s, -w0, t);
    if (t === 0 || w0 === s || (w0 === 0 && b === 0)) return w0;
    const size = Math.max(b, Math.abs(s), w0);
    b /= size; s /= size; w0 /= size;
    const r = Math.hypot(b, s);
    const cos = r > 0 ? s / r : 1, sin = r > 0 ? b / r : 0;
    const plus = cos >= 0 ? 1 + cos : sin * sin / (1 - cos);
    const minus = cos <= 0 ? 1 - cos : sin * sin / (1 + cos);
    const root = Math.hypot(w0, b), y0 = w0 + root, lift = w0 + w0 * (w0 / (root + b));
    const x = 2 * r * size * t, e = Math.exp(-x);
    const g = x > 1e-15 ? -Math.expm1(-x) / r : 2 * size * t;
    const top = y0 * (plus + minus * e) + b * (b * g), bottom = minus + plus * e + y0 * g;
    const kept = lift * (cos * cos / (1 + sin) + (1 + sin) * e), moved = s * g * (y0 + b);
    let w = 0.5 * (kept + moved) * (1 / bottom + b / top);
    if (s < 0 && top + b * bottom < kept - moved) {
      const over = y0 / (r * r * (1 - cos)) + (b > 0 ? minus * (e / b) * (y0 / b) : Infinity) + g;
      w = 0.5 * (top / bottom - bottom / over);
    }
    return w * size;
  }

  // The weights with imbalance d and product w, on the branch of the start (u, v).
  function weights(u, v, w) {
    const d = (u - v) * (u + v), r = Math.hypot(d, 2 * w);
    if (d > 0) { const a = Math.sign(u) * Math.sqrt((r + d) / 2); return [a, w / a]; }
    if (d < 0) { const b = Math.sign(v) * Math.sqrt((r - d) / 2); return [w / b, b]; }
    const size = Math.sqrt(Math.abs(w));
    return [Math.sign(u) * size, Math.sign(v) * size];
  }

  // Two weights with the loss ½(s − uv)²: the flow, its limit, and what is guaranteed before it starts.
  function twoWeights(u, v, s) {
    const d = (u - v) * (u + v), w0 = u * v, r0 = Math.abs(s - w0);
    const stuck = d === 0 && (w0 * s < 0 || w0 === 0) && r0 > 0;
    const limit = stuck || (d === 0 && s === 0) ? 0 : s;
    const product = t => riccati(Math.abs(d) / 2, s, w0, t);
    const margin = Math.max(0, Math.abs(s) - r0);
    const guaranteed = 2 * Math.hypot(d, 2 * margin);
    // Until |s − w| is |s| the imbalance alone counts; from there on the worst start is at 0, or at the margin.
    const wait = r0 > Math.abs(s) ? (d === 0 ? Infinity : Math.log(r0 / Math.abs(s)) / Math.abs(d)) : 0;
    const residual = t => t <= wait ? r0 * Math.exp(-Math.abs(d) * t)
      : Math.abs(s) - riccati(Math.abs(d) / 2, Math.abs(s), margin, t - wait);
    return {
      u, v, s, d, product0: w0, loss: 0.5 * r0 * r0, limit, stuck, margin, guaranteed,
      rate: 2 * Math.hypot(d, 2 * w0), finalRate: stuck ? 0 : 2 * Math.hypot(d, 2 * limit),
      product, at: t => weights(u, v, product(t)),
      lossAt: t => { const r = s - product(t); return 0.5 * r * r; },
      oneRateAt: t => 0.5 * r0 * r0 * Math.exp(-guaranteed * t),
      envelopeAt: t => { const r = Math.max(0, residual(t)); return 0.5 * r * r; },
      timeTo: f => crossing(t => Math.abs(s - product(t)), r0 * Math.sqrt(f)),
      envelopeTimeTo: f => crossing(t => Math.max(0, residual(t)), r0 * Math.sqrt(f)),
    };
  }

  // The time at which a falling function reaches a level; Infinity if it stays above.
  function crossing(f, level) {
    if (!(f(0) > level)) return 0;
    let high = 1e-3;
    while (f(high) > level) { high *= 2; if (high > 1e12) return Infinity; }
    let low = high === 1e-3 ? 0 : high / 2;
    for (let k = 0; k < 100 && high - low > 1e-14 * high; k++) {
      const middle = (low + high) / 2;
      if (f(middle) > level) low = middle; else high = middle;
    }
    return (low + high) / 2;
  }

  // The offsets c_l = w_l² − min w², and the root x of Π(x + c_l) = w².
  function offsets(squares) { const least = Math.min(...squares); return squares.map(q => q - least); }

  function chainRoot(c, w) {
    if (w === 0) return 0;
    const level = 2 * Math.log(Math.abs(w));
    let z = level / c.length;
    for (let k = 0; k < 200; k++) {
      const x = Math.exp(z);
      let value = -level, slope = 0;
      for (const offset of c) { value += Math.log(x + offset); slope += x / (x + offset); }
      const step = Math.max(0, value / slope);
      z -= step;
      if (step <= 4e-16 * Math.max(1, Math.abs(z))) break;
    }
    return Math.exp(z);
  }

  // p'(x) = Σ_l Π_{k≠l} (x + c_k), the only eigenvalue of T.
  function chainSlope(c, x) {
    let total = 0;
    for (let l = 0; l < c.length; l++) {
      let product = 1;
      for (let k = 0; k < c.length; k++) if (k !== l) product *= x + c[k];
      total += product;
    }
    return total;
  }

  const NODES = [0.1488743389816312, 0.4333953941292472, 0.6794095682990244, 0.8650633666889845, 0.9739065285171717];
  const SHARES = [0.2955242247147529, 0.2692667193099963, 0.2190863625159820, 0.1494513491505806, 0.0666713443086881];

  function integral(f, a, b) {
    const middle = (a + b) / 2, half = (b - a) / 2;
    let sum = 0;
    for (let k = 0; k < 5; k++) sum += SHARES[k] * (f(middle + half * NODES[k]) + f(middle - half * NODES[k]));
    return sum * half;
  }

  // A chain of scalars with the loss ½(s − w_1 ⋯ w_L)²: rates before the run, and the time of every loss.
  function chain(layers, s) {
    const L = layers.length, squares = layers.map(w => w * w), c = offsets(squares);
    const product0 = layers.reduce((a, b) => a * b, 1), r0 = Math.abs(s - product0);
    const least = c.filter(x => x === 0).length;
    const stuck = r0 > 0 && least > 1 && product0 * s <= 0 && product0 !== s;
    const limit = stuck ? 0 : s;
    const slope = w => chainSlope(c, chainRoot(c, w));
    const margin = Math.max(0, Math.abs(s) - r0);
    const others = c.slice().sort((a, b) => a - b).slice(1).reduce((a, b) => a * b, 1);
    const towards = Math.sign(s - product0) || 1;
    // dt = −d log|s − w| / T(w), in pieces that are short in log|s − w| and end where w = 0.
    function timeTo(f) {
      const end = Math.sqrt(f) * r0;
      if (!(r0 > end)) return 0;
      if (stuck && Math.abs(s) >= end) return Infinity;
      const marks = [Math.log(r0), Math.log(end)];
      const zero = Math.log(Math.abs(s));
      if (product0 * s < 0 && zero < marks[0] && zero > marks[1]) marks.splice(1, 0, zero);
      let total = 0;
      for (let i = 0; i + 1 < marks.length; i++) {
        const pieces = 16 + 8 * Math.ceil(marks[i] - marks[i + 1]), h = (marks[i] - marks[i + 1]) / pieces;
        for (let k = 0; k < pieces; k++) {
          total += integral(z => 1 / slope(s - towards * Math.exp(z)), marks[i] - (k + 1) * h, marks[i] - k * h);
        }
      }
      return total;
    }
    return {
      layers, s, L, product0, offsets: c, loss: 0.5 * r0 * r0, limit, stuck, margin, rate: slope(product0),
      exact: slope(margin),
      closed: Math.hypot(others, L * Math.pow(margin, 2 - 2 / L)),
      balanced: L * Math.pow(margin, 2 - 2 / L),
      imbalance: chainSlope(c, 0),
      finalRate: stuck ? 0 : slope(limit), slope, timeTo,
    };
  }

  return { riccati, weights, twoWeights, chain, chainRoot, chainSlope };
})();

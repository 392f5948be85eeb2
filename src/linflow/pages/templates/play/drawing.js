// Frames, lines, handles and numbers: what all views draw with.
"use strict";

const drawing = (() => {
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

  let focused = "";  // the handle that had the focus before its drawing was made anew

  // A frame with axes. `x` and `y` map data to the drawing.
  function frame(svg, { x, y, xlabel, ylabel, xticks, yticks, size }) {
    if (svg.contains(document.activeElement)) focused = document.activeElement.id;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    const left = 64, right = size[0] - 12, top = 12, bottom = size[1] - 40;
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
    // A finger needs more room than the mark. The room lies below every mark.
    const room = make("circle", { class: "room", cx: node.getAttribute("cx"), cy: node.getAttribute("cy"), r: 24 }, node.parentNode);
    node.parentNode.prepend(room);
    for (const place of [node, room]) place.addEventListener("pointerdown", event => {
      if (event.button) return;
      event.preventDefault();
      node.focus({ preventScroll: true });
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
    if (node.id && node.id === focused) {
      focused = "";
      node.focus({ preventScroll: true });
    }
    node.addEventListener("keydown", event => {
      const step = (event.shiftKey ? 5 : 1) * 0.05;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
      if (moves[event.key]) { event.preventDefault(); move(...moves[event.key]); }
    });
  }

  const log = points => points.map(([t, y]) => [t, Math.log10(Math.max(y, 1e-12))]);
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

  // The curve uv = s, where the loss of two weights is 0.
  function optima(plane, s, reach) {
    const steps = Array.from({ length: 241 }, (_, k) => Math.pow(10, -2 + 2.5 * k / 240));
    if (s === 0) { plane.line([[-reach, 0], [reach, 0]], "optima"); plane.line([[0, -reach], [0, reach]], "optima"); return; }
    for (const sign of [1, -1]) plane.line(steps.map(a => [sign * a, sign * s / a]), "optima");
  }

  function presets(id, apply) {
    for (const button of byId(id).querySelectorAll("button")) {
      button.addEventListener("click", () => apply(JSON.parse(button.dataset.state)));
    }
  }

  return { optima, presets, byId, make, number, frame, whole, powers, niceTicks, handle, clamp, tidy, fill, log };
})();

// The explorer: the views of the page, those of the library, and the presets of the figures.
"use strict";

const explore = (() => {
  const VIEWS = [twoLayers, descending, neurons, leastNorm];
  const { ask: askTwo } = asking.asker("two_weights", found => asking.said("two_weights", found));
  const { ask: askDepth } = asking.asker("depth", found => asking.said("depth", found));
  const two = () => ({ u: play.two.u, v: play.two.v, s: play.two.s });
  const deep = () => ({ layers: play.deep.layers, s: play.deep.s });

  function begin() {
    play.watchers.push(name => {
      if (name === "two") { askTwo(two()); descending.follow(); }
      else askDepth(deep());
    });
    Object.assign(neurons.state, JSON.parse(drawing.byId("neurons-presets").querySelector("button").dataset.state));
    for (const view of VIEWS) { view.begin(); address.keepers.push(view); }
    asking.buttons("two_weights", two);
    asking.buttons("depth", deep);
    Object.assign(play.setters, { two_layers: twoLayers.set, descent: descending.set, neurons: neurons.set, least_norm: leastNorm.set });
    address.again();
  }

  return { begin, layers: twoLayers.layers, times: asking.times, pending: asking.pending };
})();

document.addEventListener("DOMContentLoaded", () => explore.begin());

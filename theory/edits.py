"""Edits: what training changed, from the weights alone: size, sparsity, neurons, direction and rank. Used by analyze.py;
rollback.py and merge.py read weights through it.

    found = measure("checkpoints/base", ["checkpoints/math", "checkpoints/code"])   # one pass over the files
    sparsity(found, 0), effective_ranks(found, 0)                                   # of the first checkpoint
    cosines(module_grams(found)["all"]), neuron_grams(found)                        # all against all

An edit is delta = theta_expert - theta_base over all parameters; there are E of them. The files are read once, a tensor
at a time in each of a few threads. All numbers of a block of rows are computed while it is in a core's cache. Memory is a
few of the largest tensors. config.json and safetensors are all that is needed.

The stored precision limits what can be known. A number in bf16 has 8 significant bits: neighbours (one unit in the
last place, ulp) lie 0.4 to 0.8 % apart, and a change below half of that is rounded away or, by luck, rounded up to a
whole one. So a checkpoint stored in bf16 looks sparse even if every parameter was moved: see `rounding_null`.
"""
# found: the result of `measure`. e, f: which of the E edits, from 0. A block of a tensor is (R, C): rows and columns.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import json
import math
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm

from model import UserError, check_directory, check_equal, check_weights

BLOCK = 2**17          # elements of a block: few enough for the cache, enough to be worth a thread's while
WIDE = 256             # above this smaller side, singular values are computed only if asked for: time grows as its cube
PART = 8               # energy is that of the first 1/PART of the singular values: rank 256 of 2048 (arXiv 2609.39405)
SHARES = ("unchanged", "abs_below_1e-7", "abs_below_1e-5", "rel_below_1e-3", "abs_and_rel", "bf16_unchanged")


# ---- names and files ---------------------------------------------------------------------------------------------

def layer_of(name):
    """The number of the layer that a tensor belongs to, or None: 3 of model.layers.3.mlp.up_proj.weight."""
    match = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", f".{name}")
    return int(match[1]) if match else None


def type_of(name):
    """The type of a tensor's module: q_proj, up_proj, input_layernorm, embed_tokens, ..."""
    return name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]


def module_of(name):
    """The module that a tensor belongs to: '3 attention', '3 mlp', '3 norm', or outside the layers its type."""
    kind = "attention" if re.search("attn|attention", name) else "mlp" if re.search("mlp|feed_forward", name) else "norm"
    return type_of(name) if layer_of(name) is None else f"{layer_of(name)} {kind}"


def channels_of(name, tensor):
    """Where the channels of an MLP stand in a tensor: (MLP's name, axis, fused) or None.

    Channel c of a gated MLP is row c of gate_proj and of up_proj (or of both halves of a fused gate_up_proj) and column
    c of down_proj.
    """
    match = re.fullmatch(r"(.*)\.(gate_proj|up_proj|gate_up_proj|down_proj)\.weight", name)
    return (match[1], int(match[2] == "down_proj"), match[2] == "gate_up_proj") if match and tensor.ndim == 2 else None


def tensor_files(*checkpoints):
    """{checkpoint: {tensor name: safetensors file, a Path}}, without a tied output head, which is the embedding.

    UserError if one is no directory, is damaged, has no safetensors, or differs from the first in a tensor's name or shape.
    """
    files, first = {}, {}
    for checkpoint in checkpoints:
        check_directory(str(checkpoint))
        if not Path(checkpoint).is_dir():
            raise UserError(f"{checkpoint} is no directory: weights are compared on disk, so download a hub model first")
        try:
            tied = json.loads((Path(checkpoint) / "config.json").read_text()).get("tie_word_embeddings", False)
        except (ValueError, AttributeError) as error:
            raise UserError(f"{checkpoint} is damaged: {error!r} in its config.json") from error
        stored = {name: own for name, own in check_weights(checkpoint).items() if not (tied and name == "lm_head.weight")}
        if not stored:
            raise UserError(f"{checkpoint} has no safetensors: load it with model.py and save it again")
        files[checkpoint], shapes = ({name: own[i] for name, own in stored.items()} for i in (0, 1))
        first = first or shapes
        check_equal(checkpoints[0], first, checkpoint, shapes)
    return files


def check_names(model, name, files):
    """UserError if files, the tensor_files of checkpoint `name`, lack a parameter of the model that it is loaded as."""
    if missing := sorted({parameter for parameter, _ in model.named_parameters()} - files.keys()):
        raise UserError(f"{name} stores its weights under other names than transformers, which misses {missing[0]}: load "
                        "it and save it again with save_pretrained")


def without_weights(name):
    """A checkpoint's model on the meta device (shapes, no numbers) and tokenizer. UserError if transformers has none."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig       # takes seconds
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))
        if (Path(name) / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(name)
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{name} is no checkpoint that transformers knows: {error}") from error


def put(model, weights):
    """Put weights(name), a tensor of any type on any device, into the model, parameter by parameter."""
    for name, p in model.named_parameters():
        p.data.copy_(weights(name))


# ---- one pass over the files -------------------------------------------------------------------------------------

def measure(base, checkpoints, wide=False):
    """Everything below from one pass over the files: {tensor name: dict}, tensors of integers left out, in each dict

        parameters                                 of the tensor
        counts   (E, shares) int64, NumPy          for how many each of SHARES holds
        l1, linf (E,) fp64, null (E,) fp32         sums and maxima of |delta|; null: see rounding_null
        gram     (E, E) fp64                       inner products of the edits; its diagonal is their squared L2 norms
        products (2, E, E) fp64, for e < f         sums of p^2 over all p = delta_e,i delta_f,i, and over those below 0
        channels (E, E, channels) fp64 or None     like gram, channel by channel of the MLP that "mlp" names
        singular E x (values,) fp64                singular values, descending; [] of no matrix; None of too wide a one

    base, checkpoints: directories. wide: singular values of every matrix. UserError if the checkpoints differ in a name or a
    shape, or hold numbers that are not finite.
    """
    files = tensor_files(base, *checkpoints)
    read = lambda name: measure_tensor(name, [read_tensor(files[c][name], name) for c in (base, *checkpoints)], wide)
    size = {name: math.prod(shape) for name, (_, shape) in check_weights(base).items()}
    largest_first = sorted(files[base], key=size.get, reverse=True)                      # so that all threads end together
    found = dict(zip(largest_first, in_threads(read, largest_first, "read weights")))
    return {name: found[name] for name in files[base] if found[name]}


def in_threads(work, names, what):
    """Yield work(name) for each name in turn; a few threads compute a little ahead. what: the name of the bar."""
    threads, ahead = min(8, torch.get_num_threads()), deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name in tqdm(names, desc=what, unit="tensor", leave=False, delay=3):
            ahead.append(pool.submit(work, name))
            if len(ahead) > 2 * threads:            # no further ahead, because results wait in memory
                yield ahead.popleft().result()
        yield from (done.result() for done in ahead)


def read_tensor(path, name):
    """One tensor. The file is opened each time, because an open one keeps all that was ever read of it in memory."""
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def measure_tensor(name, tensors, wide):
    """`measure`'s dict for one tensor, None for integers. tensors: of base and E checkpoints. UserError if not finite."""
    if not tensors[0].is_floating_point():
        return None
    matrix = tensors[0].ndim == 2
    base, *edited = (t.reshape(len(t) if t.ndim > 1 else 1, -1) for t in tensors)
    (rows, columns), E = base.shape, len(edited)
    dtype = torch.float64 if torch.float64 in {t.dtype for t in tensors} else torch.float32
    counts = np.zeros((E, len(SHARES)), np.int64)
    l1, linf, gram, products = (torch.zeros(size, dtype=torch.float64) for size in (E, E, (E, E), (2, E, E)))
    mlp, axis, fused = channels_of(name, base) or (None, None, False)
    channels = torch.zeros(E, E, base.shape[axis], dtype=torch.float64) if mlp else None
    whole, block = matrix and (wide or min(rows, columns) <= WIDE), max(1, BLOCK // columns)      # block: rows at a time
    buffer = torch.empty(E, rows if whole else min(rows, block), columns, dtype=dtype)  # once: new memory costs page faults
    scratch = torch.empty(2, min(rows, block), columns, dtype=dtype)
    for i in range(0, rows, block):
        j = min(rows, i + block)
        deltas = buffer[:, i:j] if whole else buffer[:, :j - i]                                   # (E, R, C)
        for e, tensor in enumerate(edited):
            held, total, largest = tally(base[i:j], tensor[i:j], deltas[e], scratch[:, :j - i])
            counts[e] += held
            l1[e] += total
            linf[e] = max(linf[e], largest)
        flat = deltas.reshape(E, -1)
        gram += flat @ flat.T if E > 1 else torch.dot(flat[0], flat[0])
        for e, f in combinations(range(E), 2):
            p = flat[e] * flat[f]
            products[0, e, f] += torch.dot(p, p)
            p.clamp_(max=0)
            products[1, e, f] += torch.dot(p, p)
        if mlp:
            part = torch.stack([torch.stack([(one * other).sum(1 - axis) for other in deltas]) for one in deltas])
            (channels if axis else channels[:, :, i:j]).add_(part)                                # (E, E, C or R)
    if not l1.isfinite().all():
        which = l1.isfinite().tolist().index(False) + 1
        raise UserError(f"{name} holds numbers that are not finite, in the base or in checkpoint {which} after it: a run "
                        "that diverged")
    if fused:
        channels = channels.view(E, E, 2, -1).sum(2)                                              # gate and up of a channel
    sample = base.reshape(-1)[::base.numel() >> 12 | 1].float()     # an odd stride: an even one could miss most columns
    return {"parameters": base.numel(), "counts": counts, "l1": l1, "linf": linf, "gram": gram, "products": products,
            "channels": channels, "mlp": mlp, "singular": [*map(spectrum, buffer)] if whole else None if matrix else [],
            "null": torch.tensor([rounding_null(l1[e].item() / base.numel(), sample, t.dtype == torch.bfloat16)
                                  for e, t in enumerate(edited)])}


def tally(a, b, delta, scratch):
    """Write b - a, (R, C), to `delta`, fp32 or fp64, and count for how many parameters each of SHARES holds.

    Returns (list of counts, sum and max of |b - a|). scratch: (2, R, C), of delta's type, is written over. NumPy compares
    and counts several times faster than torch on a CPU.
    """
    old, (size, limit) = a.to(delta.dtype), scratch
    torch.abs(torch.sub(b.to(delta.dtype), old, out=delta), out=size)
    d = size.numpy()
    unchanged, tiny, small = d == 0, d < 1e-7, d < 1e-5
    if a.dtype == b.dtype == torch.bfloat16:        # any change is above 2^-9 of the number: three shares are one
        same = np.count_nonzero(unchanged)
        counts = [same, np.count_nonzero(tiny), np.count_nonzero(small), same, same, same]
    else:
        relative = (d < torch.abs(old, out=limit).mul_(1e-3).numpy()) | unchanged
        bits = lambda x: x.bfloat16().view(torch.int16).numpy()
        rounded = (bits(a) == bits(b)) | unchanged  # 0 equals -0, though their bits differ
        counts = list(map(np.count_nonzero, (unchanged, tiny, small, relative, tiny & relative, rounded)))
    return counts, size.sum().item(), d.max().item()


def rounding_null(mean_size, sample, stored_in_bf16):
    """Share of parameters that bf16 would show unchanged if an edit of this mean size were dense and normal.

    A number a that bf16 rounds to r is moved by a normal d of deviation sigma. It stays in r's cell (r - ulp / 2,
    r + ulp / 2) with probability Phi((r + ulp / 2 - a) / sigma) - Phi((r - ulp / 2 - a) / sigma). Its place in the cell
    matters: a base that is itself stored in bf16 sits in the middle of every cell. sigma follows from mean_size, the mean
    of |d|, which is sigma sqrt(2 / pi); an edit that is stored in bf16 keeps only whole steps, of mean size

        mean of  2 ulp sum_k Q((k - 1/2) ulp / sigma),     Q = 1 - Phi,

    which is solved for sigma. sample: (n,) fp32 of the base's numbers.
    """
    a = sample[sample != 0].double()
    if mean_size == 0 or len(a) == 0:
        return 1.0
    r = a.bfloat16().double()
    ulp = torch.ldexp(torch.ones_like(r), r.frexp().exponent - 8)                                 # of r in bf16
    phi = lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    sigma = mean_size * math.sqrt(math.pi / 2)
    if stored_in_bf16:
        few, times = ulp[::16].unique(return_counts=True)                                         # a dozen sizes
        steps = (torch.arange(1, 9)[:, None] - 0.5) * few / math.sqrt(2)
        left = lambda sigma: (few * times * torch.erfc(steps / sigma)).sum().item() / times.sum().item()
        low, high = 0.0, sigma + 8 * few[-1].item()
        for _ in range(50):
            sigma = (low + high) / 2
            low, high = (sigma, high) if left(sigma) < mean_size else (low, sigma)
    return (phi((r + ulp / 2 - a) / sigma) - phi((r - ulp / 2 - a) / sigma)).mean().item()


def spectrum(delta):
    """Singular values, descending, fp64, by the smaller Gram matrix: ten times as fast, good to 1e-7 of the largest."""
    delta = (delta if delta.shape[0] <= delta.shape[1] else delta.T).double()
    return torch.linalg.eigvalsh(delta @ delta.T).flip(0).clamp(min=0).sqrt()


# ---- one function per question --------------------------------------------------------------------------------------

def sparsity(found, e):
    """How many parameters an edit leaves alone, and how large it is: a dict of shares (0 to 1) and norms.

        share of |delta_i| < 1e-7,   < 1e-5,   |delta_i| < 1e-3 |theta_i| (or delta_i = 0),   the first and this;
        L0 = #{delta_i != 0}, L1 = sum |delta_i|, L2 = sqrt(sum delta_i^2), Linf = max |delta_i|.

    "unchanged" is exact, in the stored precision; "bf16_unchanged" compares both checkpoints rounded to bf16,
    "bf16_if_dense" is that of a dense edit of the same mean size (rounding_null). "by_type" and "by_layer" hold such a
    dict for each group of tensors.
    """
    def total(tensors):
        n, counts = sum(t["parameters"] for t in tensors), sum(t["counts"][e] for t in tensors)
        return {"parameters": n, **{name: int(c) / n for name, c in zip(SHARES, counts)},
                "bf16_if_dense": sum(t["parameters"] * t["null"][e].item() for t in tensors) / n,
                "L0": n - int(counts[0]), "L1": sum(t["l1"][e].item() for t in tensors),
                "L2": math.sqrt(sum(t["gram"][e, e].item() for t in tensors)),
                "Linf": max(t["linf"][e].item() for t in tensors)}

    def by(key):
        groups = sorted({*map(key, found)} - {None})
        return {str(group): total([t for name, t in found.items() if key(name) == group]) for group in groups}
    return total(list(found.values())) | {"by_type": by(type_of), "by_layer": by(layer_of)}


def effective_ranks(found, e):
    """(sum s^2)^2 / sum s^4, s a matrix's singular values: {tensor name: float}, NaN if all are 0; none if too wide."""
    squares = {name: tensor["singular"][e].square() for name, tensor in found.items() if tensor["singular"]}
    return {name: (square.sum()**2 / square.square().sum()).item() for name, square in squares.items()}


def energy(found, e):
    """Share of squared norm in the first 1/PART of each matrix's singular values; NaN if one was too wide, or all are 0."""
    if any(tensor["singular"] is None for tensor in found.values()):
        return math.nan
    squares = [tensor["singular"][e].square() for tensor in found.values() if tensor["singular"]]
    return (sum(square[:math.ceil(len(square) / PART)].sum() for square in squares) / sum(map(torch.sum, squares))).item()


def conflict(found, e, f):
    """How much two edits, e < f, pull apart: {"norm": || min(0, p) ||, "share": norm / || p ||}, p_i = delta_e,i delta_f,i.

    The conflict norm of arXiv 2607.22039. Its size follows that of the edits; the share is 0.71 where signs are random, and
    NaN where no parameter was moved by both.
    """
    whole, negative = (math.sqrt(sum(tensor["products"][k, e, f].item() for tensor in found.values())) for k in (0, 1))
    return {"norm": negative, "share": negative / whole if whole else math.nan}


def neuron_grams(found):
    """Inner products of the edits of each of M neurons (`channels_of`): (E, E, M) fp64, and M names (MLP, channel).

    Layers are in the order of their numbers. None and [] if the architecture has no such MLP.
    """
    natural = lambda mlp: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", mlp)]
    mlps = sorted({t["mlp"] for t in found.values() if t["mlp"]}, key=natural)
    grams = [sum(t["channels"] for t in found.values() if t["mlp"] == mlp) for mlp in mlps]
    names = [(mlp, c) for mlp, gram in zip(mlps, grams) for c in range(gram.shape[-1])]
    return (torch.cat(grams, -1) if mlps else None), names


def cosines(grams):
    """Cosines (E, E) from inner products (E, E), NaN where an edit is zero: cos_ef = <d_e, d_f> / (||d_e|| ||d_f||)."""
    norm = grams.diagonal().sqrt()
    return grams / (norm[:, None] * norm)


def cosine_on(grams, mask, e, f):
    """Cosine of two edits on a set of neurons, a bool mask (M,): NaN where it is empty or an edit is zero there."""
    return cosines(grams[:, :, mask].sum(-1))[e, f].item()


def direction_kept(grams, mask, e, f):
    """cos(u, u + v), u and v the edits e and f on a set of neurons: what is left of e's direction (arXiv 2609.39405)."""
    within = grams[:, :, mask].sum(-1)
    kept = within[e, e] + within[e, f]
    return (kept / (within[e, e] * (kept + within[e, f] + within[f, f])).sqrt()).item()


def module_grams(found):
    """{module: inner products of the edits (E, E) fp64}, summed over its tensors (`module_of`), "all" first."""
    grams = {"all": sum(tensor["gram"] for tensor in found.values())}
    for name, tensor in found.items():
        grams[module_of(name)] = grams.get(module_of(name), 0) + tensor["gram"]
    return grams

"""Memory: what a training step needs, predicted from the model's shape, before anything runs out of it.
Used by bench.py: `python bench.py --memory Qwen3-4B` prints it, and --measure compares it with an update that is run.

With n parameters, b bytes per number of the computation (2 in bf16), L layers of width C, m tokens in a micro-batch of
equal full rows (one by default), V the vocabulary and R processes, the peak is that of the update or that of the rollout:

    weights    n b                          or, over R processes, embedding and two layers at a time (in the update)
    optimizer  (12 + 4) n / R               fp32 master, two moments, and in the update the gradient, which is all that is
                                            left with --offload; in fp32 on one process the weights are their own masters
    layers     L S m                        S: bytes a token that autograd keeps of a layer, counted here on a real one
               L C b m + S m                with --gradient-checkpointing: each layer's input, and one layer at a time
    masks      m^2 / rows (1 + L b)         who may look at whom behind a shared prompt, each layer its own; none with
                                            --gradient-checkpointing, where every row is read whole
    logits     min(t V, 2^26) (2 b + 12)    (16 in fp32) of t completion tokens, a chunk at a time, recomputed backwards
    in flight  the gradient of a layer's widest tensors, and that of one weight on its way to its master
    cache      2 L K b per token            K: width of the keys; the rows that fast.capacity lets in, or a group

Left out: the CUDA context (0.5 GB), what the allocator cannot use, a judge, and each row's copy of the keys and values of
a shared prompt (5 to 10 % of S in Qwen3). Sequences are taken to be full; real ones are shorter.
"""
# config: the transformers config of a text model. dtype: of the computation. device: "cpu" or "cuda". P, T: tokens of prompt
# and completion.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import copy
import re
import resource
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from grpo.fast import cache_bytes, rows_that_fit
from grpo.policy import Policy
from grpo.rollout import LOGIT_ELEMENTS, Rollout
from model import UserError, check_directory

GB = 1e9
SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
QWEN3 = {"Qwen3-0.6B": (1024, 3072, 28, 16, 8), "Qwen3-1.7B": (2048, 6144, 28, 16, 8), "Qwen3-4B": (2560, 9728, 36, 32, 8)}
LLAMA = {"3m": (64, 128, 2, 4, 2), "14m": (192, 512, 12, 3, 1), "50m": (384, 1024, 20, 6, 2), "100m": (576, 1536, 30, 9, 3)}
RANDOM = {**QWEN3, **LLAMA}     # models that have random weights here
FLAGS = {"none": {}, "--gradient-checkpointing": {"checkpointing": True},
         "--gradient-checkpointing --offload": {"checkpointing": True, "offload": True},
         "--gradient-checkpointing, 4 processes": {"checkpointing": True, "processes": 4}}


def configuration(name):
    """The config of one of QWEN3 or LLAMA (SmolLM2 in miniature; nothing is downloaded), of a directory or of a hub name.

    UserError where there is none. Special ids of the former are those of warmup.byte_tokenizer.
    """
    from transformers import AutoConfig, LlamaConfig, Qwen3Config
    special = {"tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    if name in QWEN3:
        return Qwen3Config(**dict(zip(SHAPE, QWEN3[name])), vocab_size=151936, head_dim=128, max_position_embeddings=40960,
                           **special)
    if name in LLAMA:
        return LlamaConfig(**dict(zip(SHAPE, LLAMA[name])), vocab_size=49152, max_position_embeddings=8192, **special)
    check_directory(name)
    try:
        return AutoConfig.from_pretrained(name).get_text_config()
    except Exception as error:                      # the hub and json raise types of their own
        raise UserError(f"cannot read the config of {name}: {str(error).splitlines()[0]}") from error


def build(config, dtype, device="cpu"):
    """The model with random weights; on the device "meta" it takes no memory."""
    from transformers import AutoModelForCausalLM
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def kept_by_autograd(config, dtype, tokens=128):
    """S, a float, weights not counted, measured on small models on the CPU. It hardly depends on the number of tokens."""
    sizes = []
    for layers in (1, 2):                           # their difference is a layer, without embedding and final norm
        small, kept = copy.deepcopy(config), []
        small.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            small.layer_types = config.layer_types[:layers]
        model = build(small, dtype)

        def keep(tensor):
            kept.append(tensor.untyped_storage())
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.get_decoder()(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        sizes.append(sum({x.data_ptr(): x.nbytes() for x in kept if x.data_ptr() not in own}.values()))
    return (sizes[1] - sizes[0]) / tokens


def predict(config, S, P, T, *, rows=1, group_size=8, checkpointing=False, offload=False, processes=1,
            dtype=torch.bfloat16, device_bytes=80 * GB):
    """Bytes of one process's device, {"update": {use: bytes}, "rollout": {use: bytes}}: the formulas above.

    rows: in a micro-batch. checkpointing, offload: is the flag set? device_bytes: what the device has, for the rollout.
    """
    model = build(config, dtype, "meta")
    b, L, C, V = dtype.itemsize, config.num_hidden_layers, config.hidden_size, config.vocab_size
    n, R, length, m = model.num_parameters(), processes, P + T, rows * (P + T)
    layer = next(module for module in model.modules() if type(module).__name__ in model._no_split_modules)
    layer = sum(p.numel() for p in layer.parameters())
    head = getattr(config, "head_dim", None) or C // config.num_attention_heads
    own_masters = b == 4 and R == 1
    states = 0 if offload else (8 if own_masters else 12) * n / R
    handed_over = 0 if own_masters else V * C * (b + 4)                   # the embedding is the largest weight
    update = {"weights": n * b if R == 1 else (n - (L - 2) * layer) * b,
              "optimizer": states + 4 * n / R,
              "layers": m * (L * C * b + S) if checkpointing else m * L * S,
              "masks": 0 if checkpointing else m * length * (1 + b * L),
              "logits": min(rows * T * V, LOGIT_ELEMENTS) * (2 * b + 12 if b < 4 else 16),
              "in flight": 2 * m * max(config.intermediate_size, config.num_attention_heads * head) * b + handed_over}
    N = max(1, rows_that_fit(config, b, length, device_bytes - n * b - states) // group_size) * group_size   # whole groups
    rollout = {"weights": n * b, "optimizer": states, "cache": 1.25 * N * length * cache_bytes(config, b),
               "logits": 16 * N * V}
    return {"update": update, "rollout": rollout}


def predict_update(name, device, P, T, **how):
    """What `predict` says of an update in the device's precision: {"all" or a use: GB}. how: its rows, checkpointing."""
    config, dtype = configuration(name), torch.bfloat16 if device == "cuda" else torch.float32
    uses = predict(config, kept_by_autograd(config, dtype), P, T, dtype=dtype, **how)["update"]
    return {use: size / GB for use, size in {"all": sum(uses.values()), **uses}.items()}


def print_fits(names, P, T, group_size, gpu_memory):
    """For each model and set of flags, what `predict` says, beside a GPU of gpu_memory GB."""
    print(f"GB in bf16 at {P} + {T} tokens, groups of {group_size}; * fits {gpu_memory:g} GB with a tenth to spare\n"
          f"{'':14}{'flags':44}{'update':>8}{'rollout':>9}{'peak':>7}")
    for name in names:
        config = configuration(name)
        S = kept_by_autograd(config, torch.bfloat16)
        for flags, how in FLAGS.items():
            found = predict(config, S, P, T, group_size=group_size, device_bytes=gpu_memory * GB, **how)
            update, rollout = (sum(uses.values()) / GB for uses in found.values())
            print(f"{name:13} {flags:44}{update:8.1f}{rollout:9.1f}{max(update, rollout):7.1f}"
                  + " *" * (max(update, rollout) < 0.9 * gpu_memory))


def print_measured(name, device, P, T, checkpointing):
    """What `predict` says of one update of one full row, and what that takes on this machine with random weights."""
    uses = predict_update(name, device, P, T, checkpointing=checkpointing)
    before, config = held(device)[0], configuration(name)      # on a CPU: with the libraries
    updates = tqdm(range(2), desc="measure", unit="update", leave=False)         # no delay: the first may take a minute
    policy = Policy(build(config, torch.float32, device), gradient_checkpointing=checkpointing)
    ids = torch.randint(config.vocab_size, (1, P + T), device=device)
    real, zeros = ids >= 0, torch.zeros(1, T, device=device)
    rollout = Rollout(ids[:, 0] * 0, ids[:, :P], real[:, :P], ids[:, P:], real[:, P:], zeros, zeros, real[:, 0])
    for _ in updates:                               # AdamW makes its moments at the end of the first
        policy.backward(policy.logps(rollout).mean())
        policy.step(1e-6, 1.0)
    uses |= {"predicted": uses.pop("all"), "measured": (held(device)[1] - before) / GB}
    print(f"{'GB':24}" + "".join(f"{use:>12}" for use in uses))
    print(f"{name:24}" + "".join(f"{value:12.2f}" for value in uses.values()))


def held(device):
    """Bytes of a device that this process holds now (the most, where the system does not tell), and the most it has held."""
    if device == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    # Linux counts in ru_maxrss what the process that started this one held; VmHWM begins anew with each program.
    kilobytes = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+)", proc("self/status")))
    if kilobytes:
        return 1024 * int(kilobytes["VmRSS"]), 1024 * int(kilobytes["VmHWM"])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def proc(name):
    """The text of a file of Linux's /proc, "" on other systems."""
    path = Path("/proc", name)
    return path.read_text() if path.exists() else ""

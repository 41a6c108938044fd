"""Load and save models: the one place where every script gets its model from and leaves it.

    model, tokenizer = load("checkpoints/base")        # our tiny default
    model, tokenizer = load("Qwen/Qwen3-0.6B")         # a hub name, or any Hugging Face directory
    save(model, tokenizer, "checkpoints/math", run)    # config.json, model.safetensors, tokenizer, run.json

A checkpoint is a plain Hugging Face directory, so `AutoModelForCausalLM.from_pretrained(out)` reads it
without this file. `run.json` beside the weights is the lineage: which checkpoint it came from, trained on
which domain, with which arguments, to which score; its `recipe` is the whole way there in short, stage by stage:
["base", "code 100", "math 100", "code+math 50"], its `settings` are those of each stage of training.
Scripts talk to each other through such directories only.

Precision: bf16 on a GPU (fp32 when training: see `load`), fp32 on a CPU.
Attention: PyTorch's fused `scaled_dot_product_attention`, or what `attention=` names.
"""
# torch and transformers are imported where they are used: a script reads its command line before that takes seconds.
import contextlib
import functools
import hashlib
import json
import math
import os
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError, safe_open

NOT_FINITE = (math.inf, -math.inf)
FLOATS = ("F64", "F32", "F16", "BF16")  # what weights may be stored as
BASE = os.path.relpath(Path(__file__).parent / "checkpoints" / "base")  # the default model, part of the repository
SMALL = 10_000_000  # parameters; up to here a model counts as small, as the default base does
# Before torch is imported: threads of one product that wait for each other would spin, and beside another busy process take
# the processor from the one that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class UserError(Exception):
    """A mistake the user can mend. `cli` prints it as one line and exits with code 2."""


def cli(main):
    """Run main(), return what it does; mistakes of the user and of the file system become one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")       # a terminal that has no ± is no reason to stop
    try:
        result = main()
        sys.stdout.flush()
        return result
    except BrokenPipeError:                         # whoever read the output, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError, SafetensorError) as error:  # no space left, permission denied, missing file
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"        # torch's
                or "allocate memory" in str(error)):
            raise
        said = " ".join((str(error) or "out of memory").split())[:150]
        print(f"error: {said}: what was saved stays; bench.py --memory says what fits: try a lower --micro-batch-tokens, "
              "--gradient-checkpointing or --offload", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def load(name_or_dir, device=None, dtype=None, attention=None):
    """A causal LM in eval mode and its tokenizer, ready for left-padded chat prompts. tokenizer.end_ids: see `end_ids`.

    name_or_dir: a checkpoint of ours, any Hugging Face model directory, or a hub name. GGUF files are loaded where
        transformers can.
    device, dtype: default to the GPU of this process and bf16 where there is one, else CPU and fp32.
        train_grpo.py asks for fp32 everywhere: at lr 1e-6 a bf16 weight is too coarse to move at all.
    attention: "sdpa" (the default where a model has it), "flash_attention_2" (GPU, where installed) or "eager" (the default
        elsewhere; it has second derivatives).
    Raises UserError if it is no model, is half-written, would lose tensors, or has no chat template or end token.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    check_directory(name_or_dir)
    stored = check_weights(name_or_dir)
    files = weight_files(name_or_dir)
    how = {"trust_remote_code": False, **{"gguf_file": file.name for file in files if file.suffix == ".gguf"}}
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    small = files and sum(file.stat().st_size for file in files) < 2**30
    (logging.disable_progress_bar if small else logging.enable_progress_bar)()  # no bar for what takes no time
    logging.set_verbosity_error()                   # of what it would warn of, all that matters is an error below
    try:
        device = torch.device(device)
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(name_or_dir, padding_side="left", **how)
        model, found = AutoModelForCausalLM.from_pretrained(name_or_dir, dtype=dtype, attn_implementation=attention,
                                                            output_loading_info=True, ignore_mismatched_sizes=True, **how)
        if getattr(model, "_hf_peft_config_loaded", False):               # of a hub: check_directory sees those on disk
            raise ValueError("it is an adapter: merge it into its base with peft")
        model = model.to(device).eval()
    except Exception as error:  # the hub, safetensors and json each raise types of their own
        reason = str(error).strip().split("\n")[0] + "; there is no such directory here" * (not os.path.isdir(name_or_dir))
        raise UserError(f"cannot load {name_or_dir} as a causal language model on {device}: {reason}") from error
    if "gguf_file" in how:                          # its weights are plain numbers by now
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
    other = [key for key, *_ in found["mismatched_keys"]]
    for what, keys in (("is incomplete: its weights lack", found["missing_keys"]),       # they would be random numbers
                       ("holds weights of another shape than its config.json says:", other),
                       ("holds weights that its config.json has no place for:", found["unexpected_keys"])):
        if keys:
            raise UserError(f"{name_or_dir} {what} {min(keys)} ({len(keys)} tensors in all)")
    known = model._keys_to_ignore_on_load_unexpected or ()
    if lost := [key for key in stored if any(re.search(pattern, key) for pattern in known)]:
        print(f"{name_or_dir}: transformers leaves out {lost[0]} ({len(lost)} tensors in all); so will what is saved of it")
    for what in ("chat_template", "eos_token"):
        if getattr(tokenizer, what) is None:
            raise UserError(f"the tokenizer of {name_or_dir} has no {what}: use an instruction-tuned model, or set "
                            f"tokenizer.{what} and save the tokenizer into the model's directory")
    if tokenizer.pad_token is None:                 # padding is masked, so any id will do
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise UserError(f"{name_or_dir}: the tokenizer has {len(tokenizer)} tokens, the model "
                        f"{model.get_input_embeddings().num_embeddings}: they do not belong together")
    tokenizer.end_ids = end_ids(model, tokenizer)
    use_threads(model)
    return model, tokenizer


def use_threads(model):
    """One thread for a small model: hardly slower, and no number depends on how many cores there are. All for others.

    OMP_NUM_THREADS, where it is set, decides in place of this.
    """
    import torch
    most = all_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if model.num_parameters() <= SMALL else most)


@functools.cache
def all_threads():
    """How many threads torch has chosen for this machine: asked before `use_threads` first changes it."""
    import torch
    return torch.get_num_threads()


def weight_files(directory):
    """The files (Path) that hold a checkpoint's weights, of the best kind that is there; none for a hub name."""
    names = ("model.safetensors", "model*.safetensors", "pytorch_model*.bin", "*.gguf")
    return next(filter(None, (sorted(Path(directory).glob(name)) for name in names)), [])


def check_directory(path):
    """UserError that says in one line what is wrong with a path that should be a model's directory; hub names pass."""
    if not os.path.isdir(path):
        looks_local = path.startswith((".", "/", "~", "checkpoints")) or path.count("/") > 1
        if looks_local or os.path.exists(path):
            raise UserError(f"no checkpoint at {path}: it should be a directory with config.json and model.safetensors" +
                            "; `python -m grpo.warmup` makes it again" * (os.path.normpath(path) == BASE))
        return
    names, files = os.listdir(path), weight_files(path)
    gguf = [file for file in files if file.suffix == ".gguf"]
    for wrong, what in (
            ("adapter_config.json" in names, "holds an adapter: merge it into its base with peft, and name what that saves"),
            (len(gguf) > 1, "holds several GGUF files: leave one"),
            (not (gguf or "config.json" in names), "is no checkpoint: it has no config.json"),
            (not files, "is half-written: it has a config.json and no weights; delete it or train it again")):
        if wrong:
            raise UserError(f"{path} {what}")


def check_weights(directory):
    """A checkpoint's tensors by the headers of its safetensors files: {name: (file, shape)}; empty without files.

    UserError if a file is damaged, or if weights are no plain floating-point numbers.
    """
    found = {}
    for file in [file for file in weight_files(directory) if file.suffix == ".safetensors"]:
        try:
            with safe_open(file, "np") as tensors:
                stored = {name: tensors.get_slice(name) for name in tensors.keys()}
                kinds = {name: part.get_dtype() for name, part in stored.items() if name.endswith("weight")}
                found |= {name: (file, part.get_shape()) for name, part in stored.items()}
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({error}): copy, download or train it again") from error
        if odd := [name for name, kind in kinds.items() if kind not in FLOATS]:
            raise UserError(f"{file} stores {odd[0]} as {kinds[odd[0]]}: take a version that is not quantized, with weights "
                            f"in one of {', '.join(FLOATS)}")
    return found


def end_ids(model, tokenizer):
    """Token ids that end a completion: the tokenizer's and the model's own (chat models often have both)."""
    more = model.generation_config.eos_token_id if model.generation_config else None
    more = [] if more is None else more if isinstance(more, list) else [more]
    if not all(isinstance(one, int) for one in more):
        raise UserError(f"generation_config.json: eos_token_id {more} is no token id, nor a list of them")
    return sorted({tokenizer.eos_token_id, *more})


def save(model, tokenizer, out, run, state_dict=None, more=None):
    """Write a standard Hugging Face directory `out` atomically, `run` (a dict) as run.json in it.

    A new directory appears whole, by one rename. In an existing one each file is replaced by a rename, run.json
    last, so that at every moment the directory loads. state_dict: {parameter name: tensor} in place of the model's own
    weights (fp32 master weights). more: a function that writes further files into the directory whose path it is given.
    Raises OSError if the disk is full; what stood in `out` stays.
    """
    from transformers.utils import logging
    out = Path(os.path.abspath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    run = {**run, "versions": {name: version(name) for name in ("torch", "transformers")}}
    tmp, generation = out.with_name(f".{out.name}.tmp"), model.generation_config
    shutil.rmtree(tmp, ignore_errors=True)          # what a killed process may have left
    try:
        model.generation_config = type(generation)()    # transformers refuses to save one that contradicts itself, as many do
        tmp.mkdir()
        logging.disable_progress_bar()  # one shard: it would jump from 0 to 1
        own = state_dict and {**state_dict}         # which save_pretrained may empty
        model.save_pretrained(tmp, state_dict=own, max_shard_size="1000GB")                  # one file: one atomic rename
        if state_dict:                              # the type of the weights, not of the model that computes with them
            config = json.loads((tmp / "config.json").read_text())
            dtype = next(iter(state_dict.values())).dtype
            write_json(tmp / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})
        if generation:
            generation.to_json_file(tmp / "generation_config.json")
        tokenizer.save_pretrained(tmp)
        write_json(tmp / "run.json", run)
        if more:
            more(tmp)
        files = [path for path in tmp.rglob("*") if path.is_file()]      # chat templates can lie in a folder of their own
        for path in files:
            with open(path, "rb") as f:
                os.fsync(f.fileno())
        if not out.exists():
            os.replace(tmp, out)
        else:
            order = ["model.safetensors", "config.json", "run.json"]     # without config.json it is no checkpoint yet
            for path in sorted(files, key=lambda p: order.index(p.name) if p.name in order else -1):
                place = out / path.relative_to(tmp)
                place.parent.mkdir(exist_ok=True)
                os.replace(path, place)
    finally:
        model.generation_config = generation
        shutil.rmtree(tmp, ignore_errors=True)


def is_small(name_or_dir):
    """Whether a model has at most 10 M parameters, by the headers of its files: what the learning rate's default asks.

    False for a hub name, of which nothing is here to be counted.
    """
    return 0 < sum(math.prod(shape) for _, shape in check_weights(name_or_dir).values()) <= SMALL


def content(name):
    """A hash of a file, or of all that a model is loaded from (weights, config, tokenizer, template); None for a hub name."""
    if not os.path.exists(name):
        return None
    beside, whole = Path(name).glob("*"), hashlib.sha256()
    files = {Path(name)} if os.path.isfile(name) else {
        *weight_files(name), *(file for file in beside if file.suffix in (".json", ".jinja", ".model", ".txt"))}
    for path in sorted(files - {Path(name) / "run.json"}):
        with open(path, "rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return whole.hexdigest()[:16]


@contextlib.contextmanager
def replacing(path):
    """Gives a name to write to, which then takes the place of `path`: a crash leaves either the old file or the new one."""
    tmp = Path(f"{path}.tmp")
    try:
        yield tmp
        with open(tmp, "rb") as file:
            os.fsync(file.fileno())
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def save_tensors(tensors, path, metadata):
    """Write {name: tensor} and metadata, {str: str}, as a safetensors file."""
    from safetensors.torch import save_file
    with replacing(path) as tmp:
        save_file(tensors, tmp, metadata)


def write_text(path, text):
    """Write a text file."""
    with replacing(path) as tmp:
        tmp.write_text(text)


def leaves(value, change):
    """A value of JSON with change(x) in place of every x in it that is no dict or list."""
    if isinstance(value, dict):
        return {key: leaves(item, change) for key, item in value.items()}
    return [leaves(item, change) for item in value] if isinstance(value, list) else change(value)


def json_safe(value):
    """A value as JSON can hold it: numbers that are not finite become null, because JSON has none."""
    return leaves(value, lambda x: None if x in NOT_FINITE or x != x else x)


def nan_for_null(value):
    """A value of JSON, as `json_safe` wrote it, with NaN again in place of each null: the interval of one prompt, say."""
    return leaves(value, lambda x: math.nan if x is None else x)


def write_json(path, value):
    """Write a value as JSON, with null for numbers that are not finite."""
    write_text(path, json.dumps(json_safe(value), indent=1) + "\n")


def read_run(path):
    """The lineage (run.json) of a checkpoint of ours, a dict; {} for a model from elsewhere. UserError: see check_run."""
    file = Path(path) / "run.json"
    try:
        run = json.loads(file.read_text()) if file.is_file() else {}
        return check_run(run, file)
    except (ValueError, RecursionError):
        raise UserError(f"{file} is no lineage of ours: repair or delete it") from None


def check_run(run, file):
    """A lineage, as it is; UserError if one of the fields that scripts read has another type than `save` wrote."""
    kinds = {"lineage": list, "recipe": list, "settings": list, "merged": list, "args": dict, "metrics": dict, "steps": int,
             "parent": (str, type(None)), "domain_files": dict}
    texts = lambda key: all(isinstance(text, str) for text in run.get(key, []))
    wrong = ["the whole"] if not isinstance(run, dict) else \
        [key for key in kinds.keys() & run.keys() if not isinstance(run[key], kinds[key])] or \
        [key for key in ("lineage", "recipe", "merged") if not texts(key)] or \
        ["recipe" for text in run.get("recipe", [])[1:] if not text.rpartition(" ")[2].isdigit()]
    if wrong:
        raise UserError(f"{file} is no lineage of ours ({wrong[0]} is not what a script wrote): repair or delete it")
    return run


def check_equal(one, shapes, other, other_shapes):
    """UserError that names the first tensor, by name, that two models do not share. one, other: what to call them.

    shapes: {tensor name: shape}, a tuple, a list or a torch.Size.
    """
    for name in sorted(shapes.keys() | other_shapes.keys()):
        pair = [list(some[name]) if name in some else "no such tensor" for some in (shapes, other_shapes)]
        if pair[0] != pair[1]:
            raise UserError(f"not of one architecture, first at {name}: {one} has {pair[0]}; {other} has {pair[1]}")

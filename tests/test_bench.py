"""Claims about bench.py, reports/memory.py and reports/roofline.py. Run by test_all.py."""
import json
import math
import os
import subprocess
import sys

import torch

import bench
import domains
import model as models
from grpo import rollout as rollouts
from reports import memory, roofline
from shared import ROOT, WORK, replaced, run, tiny

SMALL = {"model": tiny()[0], "domain": "cw", "B": 2, "G": 3, "T": 5, "warmup": 1, "steps": 1, "warmup_T": 5}


def test_predicted_memory_counts_parameters_and_what_autograd_keeps_and_is_near_what_is_measured():
    config, n, lengths = memory.configuration("Qwen3-0.6B"), 596_049_920, (2048, 8192)
    assert sum(p.numel() for p in memory.build(config, torch.bfloat16, "meta").parameters()) == n    # as on its model card
    S = [memory.kept_by_autograd(tiny()[1].config, torch.float32, tokens) for tokens in (128, 256)]
    assert S[0] == S[1] > 0                         # linear in the tokens: no attention matrix
    uses = memory.predict(config, 1e4, *lengths)
    assert uses["update"]["weights"] == 2 * n and uses["update"]["layers"] == 28 * 1e4 * 10240
    assert uses["update"]["optimizer"] == 16 * n and uses["rollout"]["optimizer"] == 12 * n
    light = memory.predict(config, 1e4, *lengths, checkpointing=True, offload=True)
    assert light["update"]["layers"] == 10240 * (28 * 1024 * 2 + 1e4) and light["update"]["optimizer"] == 4 * n
    assert memory.predict(config, 1e4, *lengths, processes=4)["update"]["optimizer"] == 4 * n
    code, out, err = run(bench.main, "--memory", tiny()[0], "--prompt", 64, "--completion", 64)
    assert code == 0 and len(out.splitlines()) == 6, (out, err)
    done = subprocess.run([sys.executable, str(ROOT / "bench.py"), "--memory", str(ROOT / "checkpoints/base"), "--prompt", "512",
                           "--completion", "1536", "--measure"], capture_output=True, text=True)
    predicted, measured = map(float, done.stdout.split()[-2:])
    assert 0.5 * measured < predicted < 2 * measured, done


def test_the_benchmark_does_the_same_work_by_each_method():
    for method in ("ours", "generate"):
        of = bench.fresh(method, SMALL, "cpu")
        # samples differ, their number does not: 6 completions of 1 to 5 tokens
        assert 6 <= of["tokens_per_step"] <= 30 and 0 < of["growth_bytes"] < of["peak_bytes"] and of["threads"] == 1
        assert of["seconds_per_step"] > 0 and of["cpu_seconds_per_step"] > 0
    ratio = bench.ratio([{"x": 4.0}, {"x": 9.0}, {"x": 2.0}], [{"x": 2.0}, {"x": 3.0}, {"x": 2.0}], "x")
    assert ratio == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_one_gpu_is_measured_part_by_part_and_what_fails_is_a_line():
    def broken(*args, **how):
        raise RuntimeError("no such\nkernel")
    with replaced(domains, reward=domains.reward), replaced(bench, predict_update=broken, fresh=bench.worker):
        code, out, err = run(bench.main, "--gpu", "--device", "cpu", "--json", WORK / "gpu.json")
    assert code in (0, None) and "predicted GB: failed, RuntimeError: no such kernel" in out, (out, err)
    report = json.loads((WORK / "gpu.json").read_text())
    step = report["step"]
    assert abs(step["seconds"] - sum(step[phase] for phase in ("rollout", "reward", "update"))) < 0.1 * step["seconds"] + 0.01
    assert step["sampler_gap"] < 1e-5 and report["predicted GB"].startswith("failed")
    for way in ("eager", "captured", "model.generate"):
        assert report[f"ms per token, {way}"].keys() == {"8 rows", "32 rows"}, way


def test_every_method_and_every_kind_of_work_has_its_line_in_one_table():
    def fresh(task, work, device):
        if task == "limits":
            part = {"seconds": 2.0, "flops": 4e9, "bytes": 1e9, "limit": "compute", "share_of_limit": 0.5}
            return {"peak_flops": 4e9, "bandwidth": 1e9, "parts": {"update": part}}
        slow = {"ours": 1, "trl": 3, "generate": 2}[task] * work["G"]
        return {"seconds_per_step": slow * (2 if work.get("neighbours") else 1), "cpu_seconds_per_step": slow, "tokens_per_step": 100,
                "peak_bytes": 1e6 * slow, "growth_bytes": 1e6, "parameters": 10**6, "threads": 1}
    about = {"trl": "1.16.0", "cores": 2}
    with replaced(bench, fresh=fresh, environment=lambda device: about):
        code, out, err = run(bench.main, "--repeats", 2, "--device", "cpu", "--json", WORK / "bench.json")
    assert code in (0, None), err
    report = json.loads((WORK / "bench.json").read_text())
    assert report["speedup_vs_trl"] == dict.fromkeys(("math", "cw", "100m"), 3) and report["memory_vs_trl"]["cw"] == 3
    assert report["beside_busy_neighbours"]["median"] == 2 and len(report["runs"]["100m"]["trl"]) == 2
    lines = [line.split("|")[1:-1] for line in out.splitlines() if line.startswith("|")]
    for work, method in ((work, method) for work in ("math", "cw", "100m") for method in ("ours", "trl", "generate")):
        assert sum([cell.strip() for cell in line[:2]] == [work, method] for line in lines) == 1, (work, method, out)
    assert sum(line[0].startswith(" growth") for line in lines) == 6 and "50%" in out, out


def test_a_small_model_computes_with_one_thread_a_large_one_with_all_unless_the_user_says_how_many():
    large = memory.build(memory.configuration("14m"), torch.float32, "meta")
    before, said = torch.get_num_threads(), dict(os.environ)
    try:
        os.environ.pop("OMP_NUM_THREADS", None)
        with replaced(models, all_threads=lambda: 2):
            for model, threads in ((tiny()[1], 1), (large, 2), (tiny()[1], 1)):
                models.use_threads(model)
                assert torch.get_num_threads() == threads
            os.environ["OMP_NUM_THREADS"] = "1"
            models.use_threads(large)
            assert torch.get_num_threads() == 1
    finally:
        os.environ.clear()
        os.environ.update(said)
        torch.set_num_threads(before)


def test_mistakes_in_the_command_line_of_the_benchmark_are_one_line():
    for argv in (("--work", "big"), ("--work",), ("--repeats", 0), ("--memory", "Qwen3-4B", "--gpu"),
                 ("--json", "./nowhere/bench.json"), ("--memory", "Qwen3-4B", "--prompt", 0), ("--memory", "./nothing-here"),
                 ("--measure",), ("--memory", "Qwen3-0.6B", "Qwen3-4B", "--measure"),
                 ("--memory", "Qwen3-4B", "--gradient-checkpointing")):
        code, _, err = run(bench.main, *argv)
        assert code == 2 and err.count("\n") == 1, err


def test_the_roofline_counts_the_operations_that_the_mathematics_needs():
    with replaced(roofline, machine=lambda *_: (1e12, 1e10)):
        found = bench.worker("limits", SMALL, "cpu")
    _, model, tokenizer = tiny()
    config, texts = model.config, bench.texts_of(bench.settings(SMALL), {"cw": None})
    lengths = [len(ids) for ids in rollouts.encode(tokenizer, texts, 2048)]
    n = sum(p.numel() for p in model.parameters())
    head = config.vocab_size * config.hidden_size
    attended = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    token = lambda before, logits: 2 * (n - head) + 2 * head * logits + attended * (before + 1)     # one token behind others
    read = sum(token(i, False) for p in lengths for i in range(p))
    fed = sum(token(p + t, True) for p in lengths for t in range(4)) * 3             # the fifth token is not fed again
    scored = sum(token(p + t, True) for p in lengths for t in range(5)) * 3
    for part, flops in (("prefill", read + 2 * head * 2), ("decoding", fed), ("update", 3 * (read + scored))):
        assert math.isclose(found["parts"][part]["flops"], flops), part
        assert found["parts"][part]["limit"] in ("compute", "memory")
        if part != "decoding":                      # a difference of two times, which on a busy machine can be anything
            assert found["parts"][part]["seconds"] > 0
    assert found["peak_flops"] == 1e12 and found["parts"]["prefill"]["bytes"] == 4 * n

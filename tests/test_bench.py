"""Claims about bench.py, reports/memory.py and reports/roofline.py. Run by test_all.py."""
import math
import subprocess
import sys

import torch

import bench
from grpo import rollout as rollouts
from reports import memory, roofline
from shared import ROOT, replaced, run, tiny

SMALL = {"B": 2, "G": 3, "T": 5, "warmup": 1, "steps": 1, "warmup_T": 5}


def test_predicted_memory_counts_parameters_and_what_autograd_keeps_and_is_near_what_is_measured():
    config, n, lengths = memory.configuration("Qwen3-0.6B"), 596_049_920, {"prompt": 2048, "completion": 8192}
    assert sum(p.numel() for p in memory.build(config, torch.bfloat16, "meta").parameters()) == n    # as on its model card
    S = [memory.kept_by_autograd(tiny()[1].config, torch.float32, tokens) for tokens in (128, 256)]
    assert S[0] == S[1] > 0                         # linear in the tokens: no attention matrix
    uses = memory.predict(config, 1e4, **lengths)
    assert uses["update"]["weights"] == 2 * n and uses["update"]["layers"] == 28 * 1e4 * 10240
    assert uses["update"]["optimizer"] == 16 * n and uses["rollout"]["optimizer"] == 12 * n
    light = memory.predict(config, 1e4, checkpointing=True, offload=True, **lengths)
    assert light["update"]["layers"] == 10240 * (28 * 1024 * 2 + 1e4) and light["update"]["optimizer"] == 0
    assert memory.predict(config, 1e4, processes=4, **lengths)["update"]["optimizer"] == 4 * n
    code, out, err = run(bench.main, "--memory", tiny()[0], "--prompt", 64, "--completion", 64)
    assert code == 0 and len(out.splitlines()) == 6, (out, err)
    done = subprocess.run([sys.executable, str(ROOT / "bench.py"), "--memory", tiny()[0], "--prompt", "512", "--completion",
                           "3584", "--measure"], capture_output=True, text=True)
    predicted, measured = map(float, done.stdout.split()[-2:])
    assert 0.5 * measured < predicted < 2 * measured, done


def test_the_benchmark_does_the_same_work_by_each_method():
    for method in ("ours", "generate"):
        of = bench.fresh(method, tiny()[0], "cpu", SMALL)
        # samples differ, their number does not: 6 completions of 1 to 5 tokens
        assert 6 <= of["tokens_per_step"] <= 30 and len(of["step_seconds"]) == 1
        assert 0 < of["growth_bytes"] < of["peak_bytes"]
        assert math.isclose(sum(of["phases"].values()), of["seconds_per_step"])
        assert all(of["phases"][phase] > 0 for phase in ("rollout", "reward", "log-probs", "backward"))
    ratio = bench.ratio([{"x": 4.0}, {"x": 9.0}, {"x": 2.0}], [{"x": 2.0}, {"x": 3.0}, {"x": 2.0}], "x")
    assert ratio == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_mistakes_in_the_command_line_of_the_benchmark_are_one_line():
    for argv in (("--models", "big"), ("--models", "tiny,tiny"), ("--repeats", 0), ("--json", "./nowhere/bench.json"),
                 ("--memory", "Qwen3-4B", "--prompt", 0), ("--memory", "./nothing-here"), ("--measure",),
                 ("--memory", "Qwen3-0.6B", "Qwen3-4B", "--measure"), ("--memory", "Qwen3-4B", "--gradient-checkpointing")):
        code, _, err = run(bench.main, *argv)
        assert code == 2 and err.count("\n") == 1, err


def test_the_roofline_counts_the_operations_that_the_mathematics_needs():
    with replaced(roofline, machine=lambda *_: (1e12, 1e10)):
        found = bench.worker("limits", tiny()[0], "cpu", SMALL)
    _, model, tokenizer = tiny()
    config, texts = model.config, [row["prompt"] for row in bench.long_rows(2)["cw"]]
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

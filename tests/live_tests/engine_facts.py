"""Runs in the live engine's own Python: answers questions about its rules, as JSON on stdout.

Imports nothing of this project. Usage: python engine_facts.py < questions.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

os.environ["SGLANG_USE_CPU_ENGINE"] = "1"


def parsed(commands: list[list[str]]) -> list[dict[str, Any]]:
    """What the engine's argument parser makes of command lines; a refused one raises SystemExit."""
    from sglang.srt.server_args import ServerArgs

    found = []
    for words in commands:
        parser = argparse.ArgumentParser(exit_on_error=False)
        ServerArgs.add_cli_args(parser)
        try:
            values, unknown = parser.parse_known_args(words)
            found.append({"values": vars(values), "unknown": unknown})
        except (argparse.ArgumentError, SystemExit) as error:
            found.append({"refused": str(error)})
    return found


def buckets(cases: list[dict[str, Any]]) -> list[list[int]]:
    """Decode batches that CUDA graphs are captured for."""
    from sglang.srt.model_executor.runner import base_cuda_graph_runner as runner
    from sglang.srt.server_args import ServerArgs

    del runner  # only its import is asked for: the filter below is its rule
    found = []
    for case in cases:
        args = SimpleNamespace(
            disable_cuda_graph_padding=False, speculative_algorithm="EAGLE" if case["drafts"] else None
        )
        sizes = ServerArgs._generate_decode_cuda_graph_batch_sizes(args, case["max_batch"])
        slots = case["slots"]
        if max(sizes) > slots:
            sizes = [*sizes, slots]
        found.append(sorted({size for size in sizes if size <= slots}))
    return found


def pools(cases: list[dict[str, Any]]) -> list[dict[str, float]]:
    """DeepSeek-V4 pool arithmetic for given shapes."""
    from sglang.srt.environ import envs
    from sglang.srt.mem_cache import deepseek_v4_memory_pool
    from sglang.srt.model_executor.pool_configurator import DSV4PoolConfigurator

    found = []
    for case in cases:
        drafts = case["drafts"]
        envs.SGLANG_OPT_USE_ONLINE_COMPRESS.set(case["online"])
        deepseek_v4_memory_pool.ONLINE_C128 = case["online"]  # read from the variable at import
        runner = SimpleNamespace(
            model_config=SimpleNamespace(
                qk_nope_head_dim=case["head_dim"] - case["rope_dim"],
                qk_rope_head_dim=case["rope_dim"],
                index_head_dim=case["indexer_dim"],
                context_len=case["context_len"],
                compress_ratios=case["ratios"],
                window_size=case["window"],
            ),
            start_layer=0,
            end_layer=len(case["ratios"]),
            pp_size=1,
            dp_size=1,
            enable_hisparse=False,
            spec_algorithm=SimpleNamespace(
                is_eagle=lambda drafts=drafts: drafts, is_none=lambda drafts=drafts: not drafts
            ),
            server_args=SimpleNamespace(
                swa_full_tokens_ratio=case["swa_ratio"],
                speculative_algorithm="EAGLE" if drafts else None,
                max_speculative_num_draft_tokens=4 if drafts else None,
                max_running_requests=case["max_running"],
                disaggregation_mode=case["mode"],
                disaggregation_decode_extra_slots=case["extra_slots"],
            ),
        )
        solver = DSV4PoolConfigurator(runner)
        sizes = solver.calculate_pool_sizes(int(case["available_bytes"]), case["page"])
        found.append(
            {
                "bytes_per_token": solver.bytes_per_full_token,
                "state_bytes": solver._get_c128_state_fixed_bytes(case["max_running"]),
                "full": sizes.full_max_total_num_tokens,
                "swa": sizes.swa_max_total_num_tokens,
            }
        )
    return found


class Prompt:
    """As much of a request as admission looks at."""

    def __init__(self, tokens: int, new_tokens: int, ignore_eos: bool) -> None:
        import torch

        self.tokens, self.done = tokens, 0
        self.full_untruncated_fill_ids = range(tokens)
        self.prefix_indices = torch.zeros(0, dtype=torch.int64)
        self.sampling_params = SimpleNamespace(max_new_tokens=new_tokens, ignore_eos=ignore_eos)
        self.origin_input_ids = range(tokens)
        self.output_ids: list[int] = []
        self.host_hit_length = self.swa_host_hit_length = 0
        self.retracted_stain = False
        self.last_node = None
        self.mamba_pool_idx = None
        self.extend_range: Any = None
        self.extend_input_len = 0

    def needs_host_load_back(self) -> bool:
        return False

    def set_extend_range(self, start: int, end: int) -> None:
        self.extend_range = SimpleNamespace(start=start, end=end, length=end - start)


def chunks(cases: list[dict[str, Any]]) -> list[list[list[list[int]]]]:
    """Prompt tokens per request that successive prefill passes take of a queue, memory aside."""
    import torch
    from sglang.srt.managers import schedule_policy as policy

    policy.is_dsa_prefill_cp_in_seq_split = lambda: False
    policy.is_prefill_context_parallel_enabled = lambda: False
    room = 1 << 40
    tree = SimpleNamespace(
        disable=True, sliding_window_size=128, evictable_size=lambda: 0, full_evictable_size=lambda: 0,
        swa_evictable_size=lambda: 0, supports_mamba=lambda: False, inc_lock_ref=lambda *a: None,
        dec_lock_ref=lambda *a, **k: None, is_tree_cache=lambda: False,
    )  # fmt: skip
    allocator = SimpleNamespace(available_size=lambda: room)
    found = []
    for case in cases:
        queue = [Prompt(n, 16, case["ignore_eos"]) for n in case["prompts"]]
        names = {id(p): i for i, p in enumerate(queue)}
        partial, passes = None, []
        while queue or partial is not None:
            adder = policy.PrefillAdder(
                case["page"], tree, allocator, None, 0.7, case["max_prefill"], case["chunk"], 0
            )
            if partial is not None:
                partial = adder.add_chunked_req(partial)
            for one in list(queue):
                if adder.add_one_req(one, partial is not None, None) != policy.AddReqResult.CONTINUE:
                    break
            passes.append([[names[id(p)], p.extend_range.length] for p in adder.can_run_list])
            assert adder.can_run_list, "no progress"
            for one in adder.can_run_list:
                one.done += one.extend_range.length
                one.prefix_indices = torch.zeros(one.done, dtype=torch.int64)
                if one in queue:
                    queue.remove(one)
            if adder.new_chunked_req is not None:
                partial = adder.new_chunked_req
        found.append(passes)
    return found


def placements(cases: list[dict[str, Any]]) -> list[list[list[int]]]:
    """Expert of every slot after balancing, by case and layer."""
    import torch
    from sglang.srt.eplb import eplb_algorithms

    found = []
    for case in cases:
        slots = case["slots"]
        algorithm = eplb_algorithms.compute_algorithm("auto", None, case["nodes"])
        experts, _, _ = eplb_algorithms.rebalance_experts(
            tokens_per_expert=torch.tensor(case["loads"], dtype=torch.float32)[None],
            num_physical_experts=slots,
            num_local_physical_experts=slots // case["ranks"],
            num_groups=None,
            num_nodes=case["nodes"],
            algorithm=algorithm,
        )
        found.append(experts.tolist())
    return found


ASKED: dict[str, Callable[[Any], Any]] = {
    "parsed": parsed,
    "buckets": buckets,
    "pools": pools,
    "chunks": chunks,
    "placements": placements,
}


def main(instead: dict[str, Callable[[Any], Any]] | None = None) -> None:
    """Answer the questions on stdin, some of them by other functions than those of this file."""
    questions = json.load(sys.stdin)
    answers = {}
    out, sys.stdout = sys.stdout, sys.stderr  # the engine prints while it is imported
    for name, ask in (ASKED | (instead or {})).items():
        if name in questions:
            answers[name] = ask(questions[name])
    json.dump(answers, out, default=str)


if __name__ == "__main__":
    main()

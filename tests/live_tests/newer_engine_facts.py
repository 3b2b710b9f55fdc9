"""The same questions for SGLang 0.5.23, whose policy runs on the packages of the live environment.

Its compiled kernels (`sgl_kernel`) are not there; nothing that is asked calls one. Configuration that the
engine publishes at start is handed to it as plain objects.

Usage: PYTHONPATH=<folder of that release> python newer_engine_facts.py < questions.json
"""

from __future__ import annotations

import os
import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import engine_facts  # type: ignore[import-not-found]

os.environ["SGLANG_USE_CPU_ENGINE"] = "1"


class NoKernels(ModuleType):
    """Stands for compiled kernels that are imported by name and never called."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def buckets(cases: list[dict[str, Any]]) -> list[list[int]]:
    """Decode batches that CUDA graphs are captured for."""
    from sglang.srt.arg_groups import cuda_graph_hook

    cuda_graph_hook.resolving_view = lambda args: args
    found = []
    for case in cases:
        args = SimpleNamespace(
            disable_cuda_graph_padding=False, speculative_algorithm="EAGLE" if case["drafts"] else None
        )
        sizes = cuda_graph_hook.generate_decode_cuda_graph_batch_sizes(args, case["max_batch"])
        slots = case["slots"]
        if max(sizes) > slots:
            sizes = [*sizes, slots]
        found.append(sorted({size for size in sizes if size <= slots}))
    return found


def pools(cases: list[dict[str, Any]]) -> list[dict[str, float]]:
    """DeepSeek-V4 pool arithmetic for given shapes, with an explicit window ratio."""
    from sglang.srt.environ import envs
    from sglang.srt.mem_cache import deepseek_v4_memory_pool as memory
    from sglang.srt.model_executor import pool_configurator as configurator

    found = []
    for case in cases:
        drafts = 4 if case["drafts"] else 0
        envs.SGLANG_OPT_USE_ONLINE_COMPRESS.set(case["online"])
        memory.ONLINE_C128 = case["online"]  # read from the variable at import
        spec = SimpleNamespace(
            speculative_algorithm="EAGLE" if drafts else None, speculative_num_draft_tokens=drafts or None
        )
        settings = {
            "get_spec": spec,
            "get_exec": SimpleNamespace(
                kernel=SimpleNamespace(dsv4_attn_backend="flashmla", enable_deepseek_v4_fp4_indexer=False),
                features=SimpleNamespace(enable_encoder_swa_bounded_replay=False),
            ),
            "get_schedule": SimpleNamespace(
                max_running_requests=case["max_running"],
                swa_full_tokens_ratio=case["swa_ratio"],
                _swa_full_tokens_ratio_explicitly_set=True,
                swa_prefix_tails=None,
                chunked_prefill_size=8192,
            ),
            "get_disagg": SimpleNamespace(
                disaggregation_mode=case["mode"], disaggregation_decode_extra_slots=case["extra_slots"]
            ),
            "get_memory": SimpleNamespace(enable_hisparse=False, disable_radix_cache=True),
        }
        for name, value in settings.items():
            for module in (configurator, memory):
                if hasattr(module, name):
                    setattr(module, name, lambda value=value: value)
        configurator.max_speculative_num_draft_tokens = lambda drafts=drafts: drafts or None
        layers = len(case["ratios"])
        runner = SimpleNamespace(
            kv_cache_dtype_str="fp8_e4m3",
            model_config=SimpleNamespace(
                qk_nope_head_dim=case["head_dim"] - case["rope_dim"],
                qk_rope_head_dim=case["rope_dim"],
                index_head_dim=case["indexer_dim"],
                context_len=case["context_len"],
                compress_ratios=case["ratios"],
                window_size=case["window"],
                hf_config=SimpleNamespace(kv_source_layer_ids=list(range(layers))),
            ),
            layer_info=SimpleNamespace(start_layer=0, end_layer=layers),
            pp_size=1,
            attn_dp_size=1,
            sliding_window_size=case["window"],
            page_size=case["page"],
            spec_algorithm=SimpleNamespace(
                is_eagle=lambda drafts=drafts: bool(drafts),
                is_none=lambda drafts=drafts: not drafts,
                is_dspark=lambda: False,
            ),
        )
        solver = configurator.DSV4PoolConfigurator(runner)
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
        self.full_untruncated_fill_ids = self.origin_input_ids = range(tokens)
        self.prefix_len, self.extend_end = 0, 0
        self.sampling_params = SimpleNamespace(max_new_tokens=new_tokens, ignore_eos=ignore_eos)
        self.output_ids: list[int] = []
        self.host_hit_length = self.swa_host_hit_length = self.auxiliary_swa_host_hit_length = 0
        self.retracted_stain = False
        self.last_node = self.best_match_node = self.lock = None
        self.kv = SimpleNamespace(req_pool_idx=None, holds_mamba=False)

    @property
    def extend_len(self) -> int:
        return self.extend_end - self.prefix_len

    def needs_host_load_back(self) -> bool:
        return False


def chunks(cases: list[dict[str, Any]]) -> list[list[list[list[int]]]]:
    """Prompt tokens per request that successive prefill passes take of a queue, memory aside."""
    from sglang.srt.managers import schedule_policy as policy
    from sglang.srt.mem_cache.prefill_budget import PrefillBudget

    policy.get_exec = lambda: SimpleNamespace(
        features=SimpleNamespace(enable_encoder_swa_bounded_replay=False)
    )
    policy.get_schedule = lambda: SimpleNamespace(schedule_policy="fcfs")
    policy.PrefillAdder._account_prefill_cache_admission = lambda *_: None  # metrics of cache hits
    room = 1 << 40
    tree = SimpleNamespace(
        disable=True, evictable_size=lambda: 0, full_evictable_size=lambda: 0, supports_mamba=lambda: False,
        supports_prefix_sharing=lambda: False, lock=lambda node: None, unlock=lambda lock: None,
    )  # fmt: skip
    found = []
    for case in cases:
        allocator = SimpleNamespace(
            page_size=case["page"], available_size=lambda: room, request_slot_reserve=lambda **_: 0
        )
        allocator.create_prefill_budget = partial(PrefillBudget, allocator)
        queue = [Prompt(n, 16, case["ignore_eos"]) for n in case["prompts"]]
        names = {id(p): i for i, p in enumerate(queue)}
        cut, passes = None, []
        while queue or cut is not None:
            adder = policy.PrefillAdder(
                case["page"], tree, allocator, None, 0.7, case["max_prefill"], case["chunk"], 0
            )
            if cut is not None:
                cut = adder.add_chunked_req(cut)
            for one in list(queue):
                if adder.add_one_req(one, cut is not None, None) != policy.AddReqResult.CONTINUE:
                    break
            assert adder.can_run_list, "no progress"
            passes.append([[names[id(p)], p.extend_len] for p in adder.can_run_list])
            for one in adder.can_run_list:
                one.prefix_len = one.extend_end
                if one in queue:
                    queue.remove(one)
            if adder.new_chunked_req is not None:
                cut = adder.new_chunked_req
        found.append(passes)
    return found


if __name__ == "__main__":
    kernels = NoKernels("sgl_kernel")
    kernels.__path__ = []
    sys.modules["sgl_kernel"] = kernels
    engine_facts.main({"buckets": buckets, "pools": pools, "chunks": chunks})

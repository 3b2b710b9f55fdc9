"""PyTorch stand-ins for the GPU packages, written from their documentation, to run drivers on a CPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

F8 = torch.float8_e4m3fn


def _scaled(pair):
    values, scales = pair
    wide = values.float()
    if scales.shape[-2] != values.shape[-2]:
        scales = scales.repeat_interleave(128, -2)[..., : values.shape[-2], :]
    return wide * scales.repeat_interleave(128, -1)


class DeepGemm:
    @staticmethod
    def set_pdl(on):
        assert on

    @staticmethod
    def get_num_sms():
        return 4

    @staticmethod
    def get_mk_alignment_for_contiguous_layout():
        return 128

    @staticmethod
    def fp8_gemm_nt(a, b, out):
        out.copy_(_scaled(a) @ _scaled(b).mT)

    @staticmethod
    def m_grouped_fp8_fp4_gemm_nt_masked(a, b, out, filled, expected):
        assert filled.dtype == torch.int32 and expected >= 1
        product = _scaled(a) @ _scaled(b).mT
        for i, rows in enumerate(filled.tolist()):
            out[i, :rows] = product[i, :rows].to(out.dtype)

    @staticmethod
    def m_grouped_fp8_fp4_gemm_nt_contiguous(a, b, out, layout):
        left, right = _scaled(a), _scaled(b)
        for expert in layout[layout >= 0].unique().tolist():
            own = layout == expert
            out[own] = (left[own] @ right[expert].T).to(out.dtype)

    @staticmethod
    def get_paged_mqa_logits_metadata(lengths, page, sms):
        return None

    @staticmethod
    def fp8_paged_mqa_logits(q, pool, weights, lengths, table, plan, longest, clean):
        pages = pool.flatten(1)[table.long()]
        dim = q.shape[-1]
        keys = pages[..., : 64 * dim].contiguous().view(F8).float().view(len(q), -1, dim)
        scales = pages[..., 64 * dim :].contiguous().view(torch.float32).view(len(q), -1)
        scores = torch.relu(torch.einsum("bkd,bhd->bkh", keys, q[:, 0].float()))
        return (scores * weights[:, None]).sum(-1) * scales

    @staticmethod
    def tf32_hc_prenorm_gemm(x, mix, out, squares, splits):
        out.zero_(), squares.zero_()
        out[0], squares[0] = x.float() @ mix.T, x.float().square().sum(-1)


def _attention(q, keys, scale, sink):
    scores = torch.cat([q.float() @ keys.T * scale, sink[:, None]], 1)
    return torch.softmax(scores, 1)[:, :-1] @ keys


def _entries(cache, slots):
    page = cache.shape[1]
    rows = []
    for slot in slots.tolist():
        whole = cache[slot // page].contiguous().view(torch.uint8).flatten()
        at = slot % page
        body = whole[at * 576 : at * 576 + 576]
        scales = whole[page * 576 + at * 8 :][:7].float()
        nope = body[:448].clone().view(F8).float().view(7, 64) * torch.exp2(scales - 127)[:, None]
        rows.append(torch.cat([nope.flatten(), body[448:].clone().view(torch.bfloat16).float()]))
    return torch.stack(rows)


def flash_mla_with_kvcache(q, k_cache, indices, attn_sink, softmax_scale, **more):
    assert more["is_fp8_kvcache"] and more["topk_length"].dtype == torch.int32
    out = torch.empty(q.shape, dtype=torch.bfloat16)
    for row in range(len(q)):
        keys = _entries(k_cache, indices[row, 0])
        if "extra_k_cache" in more:
            extra = _entries(more["extra_k_cache"], more["extra_indices_in_kvcache"][row, 0])
            keys = torch.cat([keys, extra])
        out[row, 0] = _attention(q[row, 0], keys, softmax_scale, attn_sink)
    return out, None


def flash_mla_sparse_fwd(q, kv, indices, sm_scale, d_v, attn_sink, topk_length):
    rows = [_attention(q[i], kv[indices[i, 0].long(), 0].float(), sm_scale, attn_sink) for i in range(len(q))]
    return torch.stack(rows).bfloat16(), None, None


def _rope(x, table, positions, sign=1.0):
    turns = table[positions]
    while turns.dim() < x.dim():
        turns = turns[:, None]
    real, imag = x.float()[..., 0::2], x.float()[..., 1::2]
    cos, sin = turns.real, sign * turns.imag
    return torch.stack([real * cos - imag * sin, real * sin + imag * cos], -1).flatten(-2)


def _norm(x):
    return x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)


def _with_tail(x, table, positions):
    return torch.cat([x[..., :-64], _rope(x[..., -64:], table, positions)], -1)


def _store(cache, page, slots, values):
    for slot, value in zip(slots.tolist(), values, strict=True):
        row, at = cache[slot // page], slot % page
        tiles = value[:448].view(7, 64)
        power = torch.ceil(torch.log2(tiles.abs().amax(1) / 448))
        row[at * 576 : at * 576 + 448] = (
            (tiles / torch.exp2(power)[:, None]).to(F8).flatten().view(torch.uint8)
        )
        row[at * 576 + 448 : at * 576 + 576] = value[448:].bfloat16().view(torch.uint8)
        row[page * 576 + at * 8 : page * 576 + at * 8 + 7] = (power + 127).to(torch.uint8)


def _hadamard(x):
    size = x.shape[-1]
    signs = [[(-1) ** bin(i & j).count("1") for j in range(size)] for i in range(size)]
    return x @ torch.tensor(signs, dtype=torch.float32) / size**0.5


def _quantised(x, group):
    tiles = x.float().unflatten(-1, (-1, group))
    scales = tiles.abs().amax(-1) / 448
    return (tiles / scales[..., None]).to(F8).flatten(-2), scales


class Dsv4:
    @staticmethod
    def fused_q_norm_rope(q, out, eps, table, positions):
        out.copy_(_with_tail(_norm(q), table, positions))

    @staticmethod
    def fused_rope_inplace(q, k, table, positions, inverse):
        q.copy_(_rope(q, table, positions, -1.0 if inverse else 1.0))

    @staticmethod
    def fused_k_norm_rope_flashmla(kv, weight, eps, table, positions, slots, cache, page):
        _store(cache, page, slots, _with_tail(_norm(kv) * weight.float(), table, positions))

    @staticmethod
    def fused_q_indexer_rope_hadamard_quant(q, weights, factor, table, positions):
        codes, scales = _quantised(_hadamard(_with_tail(q.float(), table, positions)), 128)
        return codes, weights.float()[..., None] * factor * scales

    @staticmethod
    def topk_transform_512(scores, lengths, table, out, page):
        count = min(out.shape[1], scores.shape[1])
        out.fill_(-1)
        out[:, :count] = torch.topk(scores, count, dim=1).indices.int()

    @staticmethod
    def plan_topk_v2(lengths):
        return lengths

    @staticmethod
    def topk_transform_512_v2(scores, lengths, table, out, page, plan):
        Dsv4.topk_transform_512(scores, lengths, table, out, page)

    @staticmethod
    def silu_and_mul_masked_post_quant(x, out, scales, quant_group_size, masked_m, topk, swiglu_limit):
        gate, up = x.float().chunk(2, -1)
        up = up.clamp(-swiglu_limit, swiglu_limit)
        codes, found = _quantised(torch.nn.functional.silu(gate.clamp(max=swiglu_limit)) * up, 128)
        out.copy_(codes), scales.copy_(found)

    @staticmethod
    def hash_topk(logits, ids, table, routed_scaling_factor):
        chosen = table[ids]
        weights = torch.nn.functional.softplus(logits).sqrt().gather(1, chosen.long())
        return weights / weights.sum(1, keepdim=True), chosen

    @staticmethod
    def compress_forward(state, tokens, bias, plan, head_dim, compress_ratio, is_online=False):
        rows = plan[1].view(torch.int32)
        out = torch.empty(len(rows), head_dim)
        flat = state.view(-1, state.shape[-1])
        for i, (end, *rest) in enumerate(rows.tolist()):
            if isinstance(plan, PrefillPlan):
                size = len(bias)
                if end >= size:
                    out[i] = _pool(tokens[end - size : end], bias, head_dim)
            elif is_online:
                if end % compress_ratio == 0:
                    top, total, mean = flat[rest[0]].view(3, head_dim)
                    score = torch.stack([top + total.log(), tokens[i, head_dim:] + bias[-1]])
                    out[i] = (torch.softmax(score, 0) * torch.stack([mean, tokens[i, :head_dim]])).sum(0)
            else:
                flat[rest[0]] = tokens[i]
                if end % compress_ratio == 0:
                    pages = rest[1:] if compress_ratio == 4 else rest[2:]
                    out[i] = _pool(state[pages].flatten(0, 1), bias, head_dim)
        return out

    @staticmethod
    def compress_norm_rope_store(kv, plan, norm_weight, norm_eps, freq_cis, out_loc, kvcache, page_size):
        positions = plan[1].view(torch.int32)[:, 0].long() - plan[0]
        values = _with_tail(_norm(kv) * norm_weight, freq_cis, positions)
        if kv.shape[1] == 512:
            return _store(kvcache, page_size, out_loc, values)
        codes, scales = _quantised(_hadamard(values), 128)
        for slot, code, scale in zip(out_loc.tolist(), codes, scales, strict=True):
            row, at = kvcache[slot // page_size], slot % page_size
            row[at * 128 : at * 128 + 128] = code.view(torch.uint8)
            row[page_size * 128 + at * 4 :][:4] = scale.view(torch.uint8)
        return None


def _pool(window, bias, dim):
    """Eight tokens in two halves, or a whole group, value by value."""
    if window.shape[1] == 4 * dim:
        half = len(window) // 2
        old, new = window[:half], window[half:]
        keys = torch.cat([old[:, :dim], new[:, dim : 2 * dim]])
        scores = torch.cat([old[:, 2 * dim : 3 * dim], new[:, 3 * dim :]])
    else:
        keys, scores = window.split(dim, 1)
    return (torch.softmax(scores + bias, 0) * keys).sum(0)


class PrefillPlan(tuple[Any, ...]):
    @staticmethod
    def _make(ratio, length):
        ends = torch.arange(ratio, int(length) + 1, ratio, dtype=torch.int32)
        rows = torch.stack([ends, ends, ends, ends], 1).contiguous()
        return PrefillPlan((ratio, rows.view(torch.uint8), None))

    @staticmethod
    def generate_legacy(ratio, slots, lengths, extend, count, device):
        return PrefillPlan._make(ratio, lengths[0])

    @staticmethod
    def generate_online(lengths, extend, slots, table, count):
        return PrefillPlan._make(128, lengths[0])


class DecodePlan(tuple[Any, ...]):
    @staticmethod
    def _make(ratio, rows):
        return DecodePlan((ratio, torch.tensor(rows, dtype=torch.int32).view(torch.uint8)))

    @staticmethod
    def generate_legacy(ratio, slots, lengths):
        rows = []
        for slot, length in zip(slots.tolist(), lengths.tolist(), strict=True):
            last = length - 1
            pages = [slot * 2 + (p // 4) % 2 if ratio == 4 else slot for p in (last - ratio, last)]
            rows.append([length, pages[1] * ratio + last % ratio, *pages])
        return DecodePlan._make(ratio, rows)

    @staticmethod
    def generate_online(lengths, slots, table):
        pairs = zip(lengths.tolist(), slots.tolist(), strict=True)
        return DecodePlan._make(128, [[length, slot, slot, -1] for length, slot in pairs])


def moe_fused_gate(logits, bias, topk, scoring_func, renormalize, routed_scaling_factor, **more):
    assert scoring_func == "sqrtsoftplus" and renormalize
    scores = torch.nn.functional.softplus(logits).sqrt()
    chosen = torch.topk(scores + bias, topk, dim=1).indices
    weights = scores.gather(1, chosen)
    return weights / weights.sum(1, keepdim=True) * routed_scaling_factor, chosen.int()


def mhc_pre(x, fn, scale, base, eps, pre_eps, sink_eps, factor, repeat, norm_weight, norm_eps):
    flat = x.flatten(1).float()
    mixes = flat @ fn.T * torch.rsqrt(flat.square().mean(1, keepdim=True) + eps)
    pre = torch.sigmoid(mixes[:, :4] * scale[0] + base[:4]) + pre_eps
    post = torch.sigmoid(mixes[:, 4:8] * scale[1] + base[4:8]) * factor
    comb = torch.exp((mixes[:, 8:] * scale[2] + base[8:]).view(-1, 4, 4))
    comb = comb / comb.sum(2, keepdim=True)
    for step in range(2 * repeat - 1):
        comb = comb / comb.sum(1 if step % 2 == 0 else 2, keepdim=True)
    y = torch.einsum("ts,tsh->th", pre, x.float())
    return post[..., None], comb, (_norm(y) * norm_weight.float()).bfloat16()


def mhc_post(x, streams, post, comb):
    return (post * x.float()[:, None] + torch.einsum("tio,tih->toh", comb, streams.float())).bfloat16()


def fused_hc_head(x, fn, scale, base, norm_eps, hc_eps):
    flat = x.flatten(1).float()
    mixes = flat @ fn.T * torch.rsqrt(flat.square().mean(1, keepdim=True) + norm_eps)
    return ((torch.sigmoid(mixes * scale + base) + hc_eps)[..., None] * x.float()).sum(1).bfloat16()


def install(monkeypatch):
    """Put the stand-ins where the drivers import from."""
    mhc = {"mhc_pre": mhc_pre, "mhc_post": mhc_post, "_compute_num_split_for_mhc_pre": lambda m, k: 2}
    quant = {"sglang_per_token_group_quant_fp8": lambda x, group, **more: _quantised(x, group)}
    flash = {
        "FlashMLASchedMeta": SimpleNamespace,
        "flash_mla_with_kvcache": flash_mla_with_kvcache,
        "flash_mla_sparse_fwd": flash_mla_sparse_fwd,
    }
    plans = {"CompressorDecodePlan": DecodePlan, "CompressorPrefillPlan": PrefillPlan}
    found = {
        "deep_gemm": vars(DeepGemm),
        "sgl_kernel.flash_mla": flash,
        "sglang.jit_kernel.dsv4": {**vars(Dsv4), **plans},
        "sglang.jit_kernel.moe_fused_gate": {"moe_fused_gate": moe_fused_gate},
        "sglang.srt.layers.mhc": mhc,
        "sglang.srt.layers.mhc_head": {"fused_hc_head": fused_hc_head},
        "sglang.srt.layers.quantization.fp8_kernel": quant,
        "flashinfer.norm": {
            "rmsnorm": lambda x, weight, eps, out: out.copy_(_norm(x) * weight.float()),
        },
    }
    for name, content in found.items():
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            path = ".".join(parts[:i])
            if path not in sys.modules:
                monkeypatch.setitem(sys.modules, path, ModuleType(path))
            if i > 1:
                parent = sys.modules[".".join(parts[: i - 1])]
                monkeypatch.setattr(parent, parts[i - 1], sys.modules[path], raising=False)
        for key, value in content.items():
            if not key.startswith("__"):
                plain = value.__func__ if isinstance(value, staticmethod) else value
                monkeypatch.setattr(sys.modules[name], key, plain, raising=False)

"""The shipped catalog against published numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import get_args

import pytest

from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.stack import Switch
from search_spaces.units import BYTES_PER_GIB, PARAMS_PER_MILLION

PLATFORMS = ("b200", "b300", "gb200", "gb300", "h100", "h200")
PRO = catalog_loader.model("deepseek-v4-pro")
FLASH = catalog_loader.model("deepseek-v4-flash")

# Vendor data sheets: capability, nominal GB, dense FP8 PFLOP/s, NVLink GB/s one way, NVLink domain.
DATA_SHEETS = {
    "gb300": (103, 288, 5.0, 900, 72),
    "gb200": (100, 192, 5.0, 900, 72),
    "b300": (103, 288, 4.5, 900, 8),
    "b200": (100, 192, 4.5, 900, 8),
    "h200": (90, 141, 1.979, 450, 8),
    "h100": (90, 80, 1.979, 450, 8),
}


def test_the_six_platforms_are_there() -> None:
    assert tuple(sorted(catalog_loader.all_hardware())) == PLATFORMS


@pytest.mark.parametrize("name", PLATFORMS)
def test_every_number_of_a_platform_has_a_source(name: str) -> None:
    platform = catalog_loader.hardware(name)
    numbers = {k for k, v in platform.model_dump().items() if isinstance(v, int | float)}
    assert numbers == set(platform.sources)
    assert all(len(text) > 20 for text in platform.sources.values())


@pytest.mark.parametrize("name", PLATFORMS)
def test_platform_agrees_with_its_data_sheet(name: str) -> None:
    platform = catalog_loader.hardware(name)
    sm, memory_gb, fp8_pflops, nvlink_gb_per_s, domain = DATA_SHEETS[name]
    assert platform.name == platform.kernel_profile == name
    assert platform.sm == sm
    assert platform.fp8_flops == pytest.approx(fp8_pflops * 1e15, rel=1e-3)
    assert platform.bf16_flops == pytest.approx(platform.fp8_flops / 2, rel=1e-3)
    assert platform.nvlink_bytes_per_s == nvlink_gb_per_s * 1e9
    assert platform.nvlink_domain_gpus == domain
    assert 0.93 * memory_gb < platform.hbm_bytes / 1e9 < BYTES_PER_GIB / 1e9 * memory_gb * 1.001


@pytest.mark.parametrize("name", PLATFORMS)
def test_only_blackwell_has_fp4(name: str) -> None:
    platform = catalog_loader.hardware(name)
    assert (platform.fp4_flops > platform.fp8_flops) == (platform.sm >= 100)
    assert platform.peak_flops("fp4") == (platform.fp4_flops or platform.fp8_flops)


def test_grace_hosts_are_the_racks() -> None:
    for platform in catalog_loader.all_hardware().values():
        rack = platform.nvlink_domain_gpus == 72
        assert (platform.host_cpu == "grace") == rack == (platform.gpus_per_node == 4)


def test_unknown_number_in_a_platform_is_refused() -> None:
    data = catalog_loader.hardware("h100").model_dump() | {"hbm_gb": 80}
    with pytest.raises(BadInput, match="hbm_gb"):
        Hardware.parse(data, "test")


# The totals of the model cards: 1.6 T and 284 B parameters, 49 B and 13 B active.
@pytest.mark.parametrize(
    ("model", "main", "with_mtp", "active"),
    [(PRO, 1573.0, 1598.8, 48.85), (FLASH, 284.3, 290.9, 13.27)],
    ids=["pro", "flash"],
)
def test_published_parameter_counts(model: ModelSpec, main: float, with_mtp: float, active: float) -> None:
    assert model.params_main / 1e9 == pytest.approx(main, rel=1e-3)
    assert (model.params_main + model.params_mtp) / 1e9 == pytest.approx(with_mtp, rel=1e-3)
    assert model.active_params / 1e9 == pytest.approx(active, rel=1e-3)


# Millions of parameters of one layer, from the shapes in each config.json: Pro, Flash.
COMPONENTS = {
    "wqkv_a": (14.68, 6.29),
    "wq_b": (100.66, 33.55),
    "wo_a": (67.11, 33.55),
    "wo_b": (117.44, 33.55),
    "attention": (299.89, 106.95),
    "indexer": (12.58 + 3.67 + 0.46, 8.39 + 2.10 + 0.26),
    "gate": (2.75, 1.05),
    "expert": (66.06, 25.17),
    "mhc": (1.38, 0.79),
}


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_millions(component: str) -> None:
    for model, millions in zip((PRO, FLASH), COMPONENTS[component], strict=True):
        counted = getattr(model, f"params_{component}") / PARAMS_PER_MILLION
        assert counted == pytest.approx(millions, abs=0.016)


def test_compressor_and_routed_millions() -> None:
    for model, c4, c128, routed in ((PRO, 14.68, 7.34, 25_367), (FLASH, 8.39, 4.19, 6_442)):
        assert model.params_compressor(4) / PARAMS_PER_MILLION == pytest.approx(c4, abs=0.01)
        assert model.params_compressor(128) / PARAMS_PER_MILLION == pytest.approx(c128, abs=0.01)
        per_layer = model.params_routed / model.num_layers / PARAMS_PER_MILLION
        assert per_layer == pytest.approx(routed, rel=1e-4)


@pytest.mark.parametrize("model", [PRO, FLASH], ids=["pro", "flash"])
def test_every_number_of_a_model_has_a_source(model: ModelSpec) -> None:
    numbers = {k for k, v in model.model_dump().items() if isinstance(v, int | float)}
    assert numbers == set(model.sources)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("deepseek-ai/DeepSeek-V4-Pro", PRO),
        ("DeepSeek-V4-Pro", PRO),
        ("dsv4-pro", PRO),
        ("nvidia/DeepSeek-V4-Pro-NVFP4", PRO),
        ("hf:deepseek-ai/DeepSeek-V4-Pro", PRO),
        ("sgl-project/DeepSeek-V4-Flash-FP8", FLASH),
        ("deepseek-v4-flash-0731", FLASH),
    ],
)
def test_aliases_resolve(name: str, spec: ModelSpec) -> None:
    assert catalog_loader.model(name) is spec


def test_no_name_means_two_models() -> None:
    pro, flash = (
        {part for n in (m.name, *m.aliases) for part in (n.lower(), n.lower().rsplit("/", 1)[-1])}
        for m in (PRO, FLASH)
    )
    assert pro.isdisjoint(flash)


@pytest.mark.parametrize("find", [catalog_loader.hardware, catalog_loader.model, catalog_loader.stack])
def test_unknown_names_list_the_known_ones(find: Callable[[str], object]) -> None:
    with pytest.raises(BadInput, match=r"'gpt-5'.*choose one of"):
        find("gpt-5")


def test_file_names_are_names() -> None:
    for key, platform in catalog_loader.all_hardware().items():
        assert key == platform.name
    for key, stack in catalog_loader.all_stacks().items():
        assert key == stack.name


def test_stacks_only_gain_switches_and_cite_them() -> None:
    stacks = sorted(catalog_loader.all_stacks().values(), key=lambda s: s.since)
    assert [s.name for s in stacks] == ["day0", "may", "june", "july", "v0523"]
    for earlier, later in pairwise(stacks):
        assert set(earlier.switches) < set(later.switches)
    for stack in stacks:
        assert set(stack.switches) <= set(stack.sources)
    assert stacks[0].switches == ()
    assert set(stacks[-1].switches) == set(get_args(Switch))


@pytest.mark.parametrize(
    ("date", "name"),
    [("2026-01-01", "day0"), ("2026-05-20", "may"), ("2026-05-27", "june"), ("2026-07-21", "july")],
)
def test_a_dated_build_belongs_to_the_latest_earlier_stack(date: str, name: str) -> None:
    assert catalog_loader.stack_on(date).name == name


def test_default_stack_exists() -> None:
    assert catalog_loader.stack(catalog_loader.DEFAULT_STACK).version == "0.5.15"


def test_toggled_stack_keeps_its_version_and_says_what_changed() -> None:
    june = catalog_loader.stack("june")
    changed = june.toggled(on=("draft_extend_graph",), off=("mhc_fusion",))
    assert changed.has("draft_extend_graph") and not changed.has("mhc_fusion")
    assert changed.version == june.version
    assert changed.name == "june+draft_extend_graph-mhc_fusion"


def test_layers_are_in_the_published_order() -> None:
    assert FLASH.layer_ratios[:8] == (0, 0, 4, 128, 4, 128, 4, 128) and FLASH.layer_ratios[-1] == 4
    assert PRO.layer_ratios[:5] == (128, 128, 4, 128, 4) and PRO.layer_ratios[-1] == 4
    for model in (PRO, FLASH):
        kinds = {ratio: model.layer_ratios.count(ratio) for ratio in set(model.layer_ratios)}
        assert kinds == model.layer_kinds() and len(model.layer_ratios) == model.num_layers


def test_a_cut_model_keeps_its_widths_and_its_first_layers() -> None:
    cut = FLASH.with_layers(8)
    assert cut.layer_kinds() == {0: 2, 4: 3, 128: 3} and cut.num_layers == 8
    assert FLASH.with_layers(4).layer_kinds() == {0: 2, 4: 1, 128: 1}
    assert cut.params_attention == FLASH.params_attention and FLASH.with_layers(43) is FLASH
    # An engine reported 52.0 GB of weights for eight layers, nearly all of them FP8 experts.
    assert FLASH.params_main > 5 * cut.params_main
    assert cut.params_routed / 1e9 == pytest.approx(51.5, abs=0.1)
    for wrong in (0, 44):
        with pytest.raises(BadInput, match=f"num_layers={wrong} must be 1 to 43"):
            FLASH.with_layers(wrong)

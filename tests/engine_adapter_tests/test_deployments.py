"""Manifests, master-config entries, node scripts and whole curves: what they say and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from engine_adapter.exports import MASTER_FILE, export, export_curve, inferencex_files, read_inferencex
from engine_adapter.flag_inventory import inventory, router_inventory
from engine_adapter.master_config import load_master
from engine_adapter.node_export import places
from engine_adapter.overrides import expand
from engine_adapter.recipe_files import load_text
from engine_adapter.srt_curve import override_between
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.public_recipes import lane, recipe_lanes
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload

GB300 = catalog_loader.hardware("gb300")
CURVE = lane("gb300-disagg-mtp")
EVERY = [recipe for recipes in recipe_lanes().values() for recipe in recipes]


def bent(recipe: Recipe, role: str, **changes: Any) -> Recipe:
    return recipe.model_copy(update={role: recipe.groups[role].model_copy(update=changes)})


@pytest.mark.parametrize("fmt", ["sglang", "sglang-nodes"])
@pytest.mark.parametrize("version", ["0.5.15", "0.5.23"])
def test_every_flag_of_every_command_is_one_of_the_program(fmt, version):
    seen = 0
    for recipe in EVERY:
        try:
            files = export(recipe, fmt, version)
        except BadInput as error:
            assert "chunk per rank" in str(error)  # two recipes that 0.5.23 refuses
            continue
        for line in "\n".join(files.values()).replace("\\\n", " ").splitlines():
            for program, known in (
                ("sglang.launch_server", inventory(version)),
                ("sglang_router.launch_router", router_inventory()),
            ):
                if program in line:
                    flags = re.findall(r"\s--([a-z0-9-]+)", line)
                    assert set(flags) <= set(known.flags)
                    seen += len(flags)
    assert seen > 5_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra_flags": {"enable-dp-atention": True}}, "is no flag of SGLang 0.5.15; did you mean"),
        ({"extra_flags": {"page-size": 64}}, "--page-size is overridden by the engine"),
        ({"extra_flags": {"tool-call-parser": "deepseek9"}}, "--tool-call-parser deepseek9 is not taken"),
        ({"extra_env": {"SGLANG_OPT_USE_ONLINE_COMPRES": "1"}}, "which would ignore it; did you mean"),
    ],
)
@pytest.mark.parametrize("fmt", ["sglang", "sglang-nodes", "srt-slurm", "dynamo-k8s", "inferencex"])
def test_unknown_and_ignored_flags_are_refused_everywhere(fmt, changes, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        export(bent(CURVE[2], "decode", **changes), fmt, "0.5.15")


def test_dynamo_flags_become_those_of_plain_sglang():
    recipe = next(r for r in EVERY if "dyn-tool-call-parser" in r.serving.extra_flags)
    script = "\n".join(export(recipe, "sglang").values())
    assert "--tool-call-parser deepseekv4" in script and "--dyn-" not in script
    manifest = "\n".join(export(recipe, "dynamo-k8s").values())
    assert "--dyn-tool-call-parser" in manifest


def test_a_manifest_states_replicas_nodes_and_gpus():
    recipe = lane("gb300-disagg-nomtp")[3]
    assert recipe.decode is not None and recipe.decode.num_gpus > 4
    files = export(recipe, "dynamo-k8s")
    document = yaml.safe_load(next(iter(files.values())))
    decode = document["spec"]["services"]["SGLangDecodeWorker"]
    assert decode["multinode"]["nodeCount"] * int(decode["resources"]["limits"]["gpu"]) == recipe.decode.tp
    assert (
        document["spec"]["services"]["SGLangPrefillWorker"]["replicas"]
        == recipe.groups["prefill"].num_workers
    )
    domain = yaml.safe_load(files["compute-domain.yaml"])
    assert domain["spec"]["numNodes"] == decode["multinode"]["nodeCount"]
    claim = decode["extraPodSpec"]["resourceClaims"][0]["resourceClaimTemplateName"]
    assert domain["spec"]["channel"]["resourceClaimTemplate"]["name"] == claim
    assert all(isinstance(item["value"], str) for item in decode["envs"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("gpu: '4'", "gpu: 4", "must be a number in quotes"),
        ("gpu: '4'", "gpu: '8'", "must equal the worker's"),
        ("dynamo.sglang", "dynamo.vllm", "does not start dynamo.sglang"),
        ("backendFramework: sglang", "backendFramework: vllm", "is not modelled"),
        ("v1alpha1", "v1beta1", "is not read"),
        ("componentType: frontend", "componentType: fronted", "is not modelled"),
        ("replicas: 9", "replicas: nine", "must be a whole number"),
        ("  servecast/hardware: gb300", "  other: gb300", "names no platform"),
    ],
)
def test_broken_manifests_name_the_field(old, new, words):
    text = next(iter(export(CURVE[4], "dynamo-k8s").values()))
    assert old in text
    with pytest.raises(BadInput, match=words):
        load_text(text.replace(old, new), "deploy.yaml")


def test_manifests_hold_no_key_that_nvidias_own_model_does_not_know():
    model = pytest.importorskip("aiconfigurator.generator.builders.dgd_model")
    for recipe in EVERY[::7]:
        document = yaml.safe_load(next(iter(export(recipe, "dynamo-k8s").values())))
        found = model.DGD.from_dict(document)
        assert found.to_dict() == document and not found.extra
        for service in found.services.values():
            assert not service.extra and not service.extra_pod_spec.extra
            assert not service.extra_pod_spec.main_container.extra


def test_a_worker_that_nodes_cannot_hold_equally_is_refused():
    b200 = lane("b200-disagg-mtp")[2]
    assert b200.decode is not None
    odd = bent(b200, "decode", tp=9, attention_dp=9, moe_ep=9, redundant_experts=3)
    with pytest.raises(BadInput, match="cannot be cut into 2 equal nodes"):
        export(odd, "dynamo-k8s")


def test_node_scripts_start_every_rank_once_on_its_node():
    recipe = lane("gb300-disagg-nomtp")[3]
    files = export(recipe, "sglang-nodes")
    text = "\n".join(files.values())
    gpus = sum(4 for name in files if name.startswith("node"))
    assert gpus == recipe.num_gpus and text.count("sglang.launch_server") == len(places(recipe, GB300))
    ranks = re.findall(r"--node-rank (\d+) --dist-init-addr \"\$\{HOST_(\d+)\}", text)
    assert [int(r) for r, _ in ranks] == list(range(len(ranks))) and len({leader for _, leader in ranks}) == 1
    assert text.count("launch_router") == 1 and "launch_router" in files["node00.sh"]
    assert files["hosts.env"].count("HOST_") == gpus // 4


def test_narrow_workers_have_gpus_and_ports_of_their_own():
    recipe = next(r for r in lane("b300-disagg-nomtp") if r.groups["prefill"].num_workers == 2)
    script = export(recipe, "sglang-nodes")["node00.sh"]
    assert re.findall(r"--base-gpu-id (\d+)", script) == ["0", "4"]
    assert len(set(re.findall(r"--port (\d+)", script))) == 3  # two workers and the router
    assert re.findall(r"--disaggregation-bootstrap-port (\d+)", script) == ["8998", "8999"]


def workload(recipe: Recipe) -> Workload:
    return Workload(isl=8192, osl=1024, concurrency=recipe.concurrencies[0], prompts="chat")


def test_one_override_file_holds_a_whole_curve():
    rows = [(f"row{i}", r, workload(r)) for i, r in enumerate(CURVE)]
    (text,) = export_curve(rows, "curve", "0.5.15", GB300).values()
    variants = expand(yaml.safe_load(text), "curve")
    assert [v["benchmark"]["concurrencies"] for k, v in variants.items() if k != "base"] == [
        list(r.concurrencies) for r in CURVE
    ]
    read = load_text(text, "curve.yaml")
    assert [loaded.recipe.digest for loaded in read] == [r.digest for r in CURVE]
    one = load_text(text, "curve.yaml", "zip_override_curve[3]")
    assert one[0].recipe.digest == CURVE[3].digest


def test_a_row_of_another_shape_is_an_override_of_its_own():
    single = lane("gb300-agg-mtp")[0].model_copy(update={"concurrencies": (2,)})
    rows = [("c1", CURVE[0], workload(CURVE[0])), ("c2", single, workload(single))]
    (text,) = export_curve(rows, "curve", "0.5.15", GB300).values()
    assert "override_c2" in yaml.safe_load(text)
    assert {loaded.recipe.is_disaggregated for loaded in load_text(text, "curve.yaml")} == {True, False}


def test_an_override_deletes_what_goes():
    assert override_between({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"x": 1, "z": 3}}) == {
        "a": {"y": None, "z": 3},
        "b": None,
    }


def test_master_entries_of_a_curve_link_their_files():
    files = inferencex_files([(r, workload(r)) for r in CURVE], "0.5.15", GB300)
    (entry,) = load_master(files[MASTER_FILE], MASTER_FILE).values()
    (lengths,) = entry.scenarios.fixed_seq_len
    assert [row.loads for row in lengths.search_space] == [r.concurrencies for r in CURVE]
    assert [r.digest for r in read_inferencex(files, "0.5.15")] == [r.digest for r in CURVE]
    assert (entry.framework, entry.kv_p2p_transfer) == ("dynamo-sglang", "mooncake")
    wrong = {**files, MASTER_FILE: files[MASTER_FILE].replace("num-worker: 8", "num-worker: 9")}
    with pytest.raises(BadInput, match="row states prefill="):
        read_inferencex(wrong, "0.5.15")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("conc-list:\n", "conc-start: 1\n        conc-list:\n", ""),
        ("  kv-p2p-transfer: mooncake\n", "", "disagg=true needs kv-p2p-transfer"),
        ("runner: gb300\n", "runner: gb300\n  colour: red\n", "unknown key colour"),
        ("multinode: true", "multinode: false", "disagg=true needs multinode=true"),
        ("num-worker: 1\n", "num-worker: 0\n", "greater than or equal to 1"),
        ("version: ", "version: a/b:", "is an image; give a version"),
        ("dsv4-fp4", "dsv4-*", "holds `\\*`"),
    ],
)
def test_broken_entries_are_refused(old, new, words):
    text = export(CURVE[0], "inferencex")[MASTER_FILE]
    assert old in text
    if words:
        with pytest.raises(BadInput, match=words):
            load_master(text.replace(old, new, 1), MASTER_FILE)


def test_a_range_is_doubled_with_both_ends():
    text = export(CURVE[0], "inferencex")[MASTER_FILE]
    text = re.sub(r"conc-list:\n\s+- \d+\n", "conc-start: 3\n        conc-end: 20\n", text)
    (entry,) = load_master(text, "f").values()
    assert entry.scenarios.fixed_seq_len[0].search_space[0].loads == (3, 6, 12, 20)


def test_what_inferencex_has_no_row_for():
    single = lane("gb300-agg-mtp")[0]
    for changes, words in (
        ({"num_workers": 2}, "runs 2 servers"),
        ({"tp": 8, "attention_dp": 8}, "more than the 4"),
    ):
        with pytest.raises(BadInput, match=words):
            export(
                bent(single.model_copy(update={"concurrencies": (4,)}), "aggregated", **changes), "inferencex"
            )
    with pytest.raises(BadInput, match="has no concurrencies"):
        export(CURVE[0].model_copy(update={"concurrencies": ()}), "inferencex")

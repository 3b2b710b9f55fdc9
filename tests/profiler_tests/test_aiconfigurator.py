"""The importer on a made-up package, the profile format, and the values that ship."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiler.aiconfigurator import SYSTEMS, import_profiles
from search_spaces import kernel_profile
from search_spaces.errors import BadInput, MissingData
from search_spaces.kernel_profile import (
    MOE_KERNELS,
    KernelProfile,
    load_profile,
    save_profile,
    shipped_profiles,
)

LARGEST_SHIPPED_BYTES = 4 * 2**20
NVLINK5_BYTES_PER_S = 900e9  # per GPU and direction, Blackwell

PRO = "deepseek-ai/DeepSeek-V4-Pro"


def write(package: Path, place: str, rows: list[dict[str, Any]]) -> None:
    reason = "the importer reads Parquet: pip install 'servecast[profile]'"
    pyarrow = pytest.importorskip("pyarrow", reason=reason)
    parquet = pytest.importorskip("pyarrow.parquet", reason=reason)
    file = package / "systems" / "data" / "gb300" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def attention(**changes: Any) -> dict[str, Any]:
    row = {"model": PRO, "gemm_type": "fp8_block", "num_heads": 128, "batch_size": 1}
    return {**row, "isl": 1024, "step": 0, "latency": 2.0, **changes}


def moe(**changes: Any) -> dict[str, Any]:
    shape = {"hidden_size": 7168, "inter_size": 3072, "num_experts": 384, "topk": 6}
    row = {"moe_dtype": "fp8_block", "kernel_source": "sglang_fused_moe_triton", "moe_tp_size": 4}
    rest = {"moe_ep_size": 1, "distribution": "power_law_1.2", "num_tokens": 16, "latency": 1.0}
    return {**shape, **row, **rest, **changes}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a package that has a few rows of a few tables of one platform."""
    root = tmp_path / "unpacked"
    package = root / "aiconfigurator_core"
    (root / "aiconfigurator_core-9.8.7.dist-info").mkdir(parents=True)
    sparse = "sparse_attention/sglang/0.5.14/dsv4_{}_module_perf.parquet"
    prefill = [
        attention(latency=4.0),
        attention(latency=2.0),  # the same shape without interference
        attention(step=64, latency=2.5),
        attention(step=128, latency=9.0),  # a slow run: a longer prefix took a third of it
        attention(step=256, latency=3.0),
        attention(gemm_type="bfloat16", step=512),
        attention(batch_size=3, latency=7.0),  # off the grid of larger batches
        attention(batch_size=3, isl=4, latency=0.5),  # a verify step
        attention(batch_size=2, isl=4096, latency=5.0),
    ]
    write(package, sparse.format("csa_context"), prefill)
    write(package, sparse.format("hca_generation"), [attention(isl=1, step=4096, latency=0.25)])
    write(
        package,
        "moe/sglang/0.5.14/moe_perf.parquet",
        [moe(latency=1.0), moe(latency=1.1), moe(latency=1.4), moe(inter_size=2048, num_tokens=32)],
    )
    reduce = {"kernel_source": "SGLang_CustomAllReduce_graph", "message_size": 1024}
    for version, num_gpus, latency in (("0.5.9", 4, 0.5), ("0.5.10", 4, 0.25), ("0.5.9", 8, 0.75)):
        folder = package / "systems/data/gb300/comm/sglang" / version
        if not folder.exists():
            both = [num_gpus, 8] if version == "0.5.9" else [num_gpus]
            rows = [{**reduce, "num_gpus": n, "latency": latency if n == 4 else 0.75} for n in both]
            write(package, f"comm/sglang/{version}/custom_allreduce_perf.parquet", rows)
    exchange = {"hidden_size": 7168, "num_topk": 6, "num_experts": 384, "num_token": 8, "node_num": 1}
    micro = {"dispatch_avg_t_us": 20.0, "combine_avg_t_us": 30.0}
    write(package, "comm/sglang/0.5.12/wideep_deepep_ll_perf.parquet", [{**exchange, **micro}])
    return root


def imported(source: Path, out: Path) -> KernelProfile:
    return load_profile(import_profiles(source, out, ["gb300"])["gb300"])


def rows_of(profile: KernelProfile, table: str, **equal: int) -> dict[str, list[Any]]:
    columns = profile.table(table)
    chosen = np.all([columns[name] == value for name, value in equal.items()], axis=0)
    return {name: values[chosen].tolist() for name, values in columns.items()}


def test_an_import_keeps_the_rows_that_matter_in_seconds(source: Path, tmp_path: Path) -> None:
    profile = imported(source, tmp_path / "out")

    assert sorted(profile.tables) == ["allreduce", "attn_decode", "attn_prefill", "deepep_ll", "moe"]
    kept = rows_of(profile, "attn_prefill", model=0, ratio=4, heads=128)
    assert kept["batch"] == [1, 1, 1, 1, 2, 3]
    assert kept["new_tokens"] == [1024, 1024, 1024, 1024, 4096, 4]
    assert kept["prefix"] == [0, 64, 128, 256, 0, 0]
    assert kept["time_s"] == pytest.approx([2e-3, 2.5e-3, 3e-3, 3e-3, 5e-3, 0.5e-3])
    decode = rows_of(profile, "attn_decode", ratio=128)
    assert decode["context"] == [4096]
    assert decode["time_s"] == pytest.approx([0.25e-3])


def test_repeats_of_random_routings_become_their_median(source: Path, tmp_path: Path) -> None:
    rows = rows_of(imported(source, tmp_path), "moe", kernel=MOE_KERNELS["fp8_block_triton"])
    assert (rows["tokens"], rows["distribution"]) == ([16], [2])
    assert rows["time_s"] == pytest.approx([1.1e-3])


def test_collectives_are_in_bytes_and_from_the_newest_version(source: Path, tmp_path: Path) -> None:
    profile = imported(source, tmp_path)
    rows = rows_of(profile, "allreduce", graph=1)
    assert (rows["num_gpus"], rows["bytes"]) == ([4, 8], [2048, 2048])
    assert rows["time_s"] == pytest.approx([0.25e-3, 0.75e-3])
    assert profile.meta["versions"]["allreduce"] == ["comm/sglang/0.5.10", "comm/sglang/0.5.9"]
    exchange = rows_of(profile, "deepep_ll", tokens=8)
    assert exchange["dispatch_s"] + exchange["combine_s"] == pytest.approx([20e-6, 30e-6])


def test_the_profile_says_where_its_numbers_come_from(source: Path, tmp_path: Path) -> None:
    meta = imported(source, tmp_path).meta
    assert "9.8.7" in meta["source"]
    assert "Apache-2.0" in meta["license"]
    assert all(len(digest) == 64 for digest in meta["digests"].values())
    assert meta["capped_rows"] == {"allreduce": 0, "attn_prefill": 1, "moe": 0}


def test_a_wheel_gives_the_same_bytes_as_the_unpacked_folder(source: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "aiconfigurator_core-9.8.7-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("aiconfigurator_core-9.8.7.dist-info/METADATA", "")
        for file in sorted(source.rglob("*.parquet")):
            archive.write(file, file.relative_to(source))
    one = import_profiles(source, tmp_path / "one", ["gb300"])["gb300"]
    two = import_profiles(wheel, tmp_path / "two", ["gb300"])["gb300"]
    assert one.read_bytes() == two.read_bytes()


def test_an_installed_package_is_found(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "aiconfigurator_core" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "aiconfigurator_core", raising=False)
    monkeypatch.syspath_prepend(source)
    assert import_profiles(None, tmp_path, ["gb300"])["gb300"].is_file()


@pytest.mark.parametrize("absent", ["pyarrow", "aiconfigurator_core"])
def test_an_absent_package_names_the_extra(
    absent: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingData, match=r"pip install 'servecast\[profile\]'"):
        import_profiles(source if absent == "pyarrow" else None, tmp_path / "out", ["gb300"])


def test_a_source_that_is_not_the_package_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="choose from"):
        import_profiles(source, tmp_path, ["gb400"])
    with pytest.raises(MissingData, match="no tables of 'h200'"):
        import_profiles(source, tmp_path, ["h200"])
    with pytest.raises(MissingData, match="does not exist"):
        import_profiles(tmp_path / "nowhere", tmp_path, ["gb300"])
    (tmp_path / "text.whl").write_text("text")
    with pytest.raises(BadInput, match="not a wheel"):
        import_profiles(tmp_path / "text.whl", tmp_path, ["gb300"])


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V5", "sgl-project/DeepSeek-V4-Nano"])
def test_an_unknown_model_is_not_guessed(source: Path, tmp_path: Path, name: str) -> None:
    place = "sparse_attention/sglang/0.5.14/dsv4_csa_context_module_perf.parquet"
    write(source / "aiconfigurator_core", place, [attention(model=name)])
    with pytest.raises(BadInput, match=f"model='{name}'"):
        import_profiles(source, tmp_path / "out", ["gb300"])


def test_a_table_of_another_layout_is_refused(source: Path, tmp_path: Path) -> None:
    place = "sparse_attention/sglang/0.5.14/dsv4_csa_context_module_perf.parquet"
    write(source / "aiconfigurator_core", place, [{"model": PRO}])
    with pytest.raises(BadInput, match="column 'batch_size' is absent"):
        import_profiles(source, tmp_path / "out", ["gb300"])
    (source / "aiconfigurator_core" / "systems" / "data" / "gb300" / place).write_text("text")
    with pytest.raises(BadInput, match="not a Parquet table"):
        import_profiles(source, tmp_path / "out", ["gb300"])


def made_up() -> KernelProfile:
    table = {
        "tokens": np.array([1, 300, 70_000]),
        "offset": np.array([-1, 0, 200]),
        "time_s": np.array([1e-3, 2e-3, 4e-3]),
    }
    return KernelProfile("made_up", {"mhc": table}, {"source": "a test"})


def test_a_profile_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "made_up.npz"
    save_profile(made_up(), path)
    loaded = load_profile(path)
    assert (loaded.name, loaded.meta) == ("made_up", {"source": "a test"})
    assert loaded.table("mhc")["tokens"].tolist() == [1, 300, 70_000]
    assert loaded.table("mhc")["offset"].tolist() == [-1, 0, 200]
    assert loaded.table("mhc")["time_s"] == pytest.approx([1e-3, 2e-3, 4e-3])
    assert loaded.table("mhc")["tokens"].dtype == np.int64
    assert load_profile(path) is loaded
    with pytest.raises(ValueError, match="read-only"):
        loaded.table("mhc")["tokens"][0] = 2
    with np.load(path) as archive:
        assert archive["mhc/tokens"].dtype == np.uint32
        assert archive["mhc/offset"].dtype == np.int16
        assert archive["mhc/time_s"].dtype == np.float32


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    path = tmp_path / "made_up.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="disk full"):
        save_profile(made_up(), path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_corrupt_file_is_bad_input(tmp_path: Path) -> None:
    save_profile(made_up(), tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    meta = np.array(json.dumps({"name": "x"}))
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    broken = bytearray(whole)
    broken[60:90] = bytes(30)
    (tmp_path / "flipped.npz").write_bytes(broken)
    ill_formed: dict[str, dict[str, Any]] = {
        "no_meta": {"mhc/tokens": np.arange(3)},
        "flat_name": {"meta": meta, "tokens": np.arange(3)},
        "uneven": {"meta": meta, "a/b": np.arange(3), "a/c": np.arange(2)},
        "matrix": {"meta": meta, "a/b": np.zeros((2, 2))},
    }
    for name, arrays in ill_formed.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    np.save(tmp_path / "single", np.arange(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    for path in sorted(tmp_path.glob("*.npz")):
        if path.stem != "whole":
            with pytest.raises(BadInput, match=path.name):
                load_profile(path)


def test_absent_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="choose one of"):
        load_profile("gb999")
    with pytest.raises(MissingData, match="does not exist"):
        load_profile(tmp_path / "absent.npz")
    with pytest.raises(MissingData, match="has no table 'megamoe'"):
        load_profile("h200").table("megamoe")


# What ships -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "time_ms"),
    [
        ("attn_decode", {"model": 0, "ratio": 4, "heads": 32, "batch": 256, "context": 4096}, 0.2245),
        ("attn_decode", {"model": 0, "ratio": 128, "heads": 32, "batch": 256, "context": 4096}, 0.1254),
        ("megamoe", {"phase": 1, "ep": 24, "distribution": 2, "tokens": 1024}, 1.0417),
        ("mhc", {"op": 1, "tokens": 65_536, "hidden": 4096}, 1.3588),
    ],
)
def test_published_values_survive(table: str, key: dict[str, int], time_ms: float) -> None:
    """Rows of aiconfigurator-core 0.12.0, systems/data/gb300, in milliseconds as published."""
    times = rows_of(load_profile("gb300"), table, **key)["time_s"]
    assert times == pytest.approx([time_ms / 1e3], rel=1e-4)


def test_every_platform_ships_within_the_size_limit() -> None:
    assert shipped_profiles() == sorted(SYSTEMS)
    folder = Path(kernel_profile.__file__).parent / "catalog" / "kernels"
    assert sum(file.stat().st_size for file in folder.glob("*.npz")) <= LARGEST_SHIPPED_BYTES


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_row_has_its_own_key_and_a_plausible_time(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    for table, columns in profile.tables.items():
        keys = [values for column, values in columns.items() if not column.endswith("_s")]
        assert len(np.unique(np.stack(keys), axis=1).T) == len(keys[0]) > 0, table
        for column in columns.keys() - {"time_s", "dispatch_s", "combine_s"}:
            assert not column.endswith("_s"), f"{table}/{column} has no known unit"
        if table != "topk_calib":  # nothing to select in short contexts takes no time
            for column in columns.keys() & {"time_s", "dispatch_s", "combine_s"}:
                assert columns[column].min() > 1e-6, table
                assert columns[column].max() < 1.0, table


@pytest.mark.parametrize("name", ["gb300", "gb200", "b300", "b200"])
def test_large_collectives_move_bytes_at_a_plausible_share_of_nvlink(name: str) -> None:
    """An all-reduce moves 2 (n - 1) / n of its bytes in and out of each GPU."""
    profile = load_profile(name)
    for table, key in (("allreduce", {"graph": 1}), ("nccl", {"op": 1})):
        rows = rows_of(profile, table, num_gpus=4, **key)
        sent_bytes = 2 * 3 / 4 * rows["bytes"][-1]
        assert 0.5 < sent_bytes / rows["time_s"][-1] / NVLINK5_BYTES_PER_S < 1.0

"""`servecast export`: files that read back, all or none of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine_adapter.recipe_files import load_all, load_recipe
from planner.file_writer import write_files
from search_spaces.errors import BadInput
from tests.planner_tests.samples import MEGAMOE, SINGLE, SRT, recipe_file, servecast

FORMATS = ("srt-slurm", "sglang", "servecast")


def tree(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


def dispatch_file(folder: Path, group: dict[str, object] | None = None) -> Path:
    recipe = SINGLE | {"aggregated": SINGLE["aggregated"] | (group or {})}
    metrics = {
        name: 1.0
        for name in (
            "total_tokens_per_s_per_gpu", "output_tokens_per_s_per_gpu", "tokens_per_s_per_user",
            "median_tpot_ms", "mean_tpot_ms", "median_ttft_ms", "mean_ttft_ms",
        )
    }  # fmt: skip
    rows = [
        {
            "min_concurrency": 1,
            "max_concurrency": 8,
            "recipe": SINGLE,
            "predictions": [{"concurrency": 4, **metrics}],
        },
        {"min_concurrency": 9, "max_concurrency": 64, "recipe": recipe},
    ]
    table = {
        "model": SINGLE["model"], "hardware": "b200", "stack": "june", "isl": 1024, "osl": 128,
        "num_gpus": 8, "rows": rows,
    }  # fmt: skip
    file = folder / "dispatch.json"
    file.write_text(json.dumps(table))
    return file


@pytest.mark.parametrize("version", ["0.5.15", "0.5.23"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_a_recipe_reads_back(tmp_path, fmt, version):
    out = tmp_path / "a" / "out"
    done = servecast(
        "export", "--recipe", recipe_file(tmp_path), "--format", fmt, "--engine-version", version,
        "--out", out, "--concurrency", "64,8",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == [str(out / name) for name in tree(out)]
    (file,) = out.iterdir()
    assert load_recipe(file).recipe.serving.tp == 8 and load_recipe(file).recipe.concurrencies == (8, 64)
    assert os.access(file, os.X_OK) == (file.suffix == ".sh")
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_row_of_a_table_has_a_folder(tmp_path, fmt):
    out = tmp_path / "out"
    done = servecast("export", "--table", dispatch_file(tmp_path), "--format", fmt, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert {Path(name).parent.name for name in tree(out)} == {"c1-c8", "c9-c64"}
    first, second = (load_recipe(next((out / name).iterdir())) for name in ("c1-c8", "c9-c64"))
    assert (first.recipe.concurrencies, second.recipe.concurrencies) == ((4,), (9, 64))
    if fmt == "srt-slurm":
        assert first.workload is not None and (first.workload.isl, first.workload.osl) == (1024, 128)


def test_a_row_that_breaks_a_law_writes_nothing(tmp_path):
    file = dispatch_file(tmp_path, MEGAMOE | {"megamoe_cap_tokens": 1024})
    out = tmp_path / "out"
    done = servecast("export", "--table", file, "--format", "sglang", "--out", out)
    assert done.exit_code == 2 and not out.exists()
    assert "row c9-c64" in done.stderr and "megamoe_cap_tokens=1024 must be >=" in done.stderr


def test_existing_files_stay_without_force(tmp_path):
    out = tmp_path / "out"
    arguments = ("export", "--recipe", recipe_file(tmp_path), "--format", "sglang", "--out", out)
    assert servecast(*arguments).exit_code == 0
    (out / "server.sh").write_text("mine")
    (out / "notes").write_text("keep")
    refused = servecast(*arguments)
    assert (
        refused.exit_code == 2 and "already holds server.sh" in refused.stderr and "--force" in refused.stderr
    )
    assert (out / "server.sh").read_text() == "mine"
    assert servecast(*arguments, "--force").exit_code == 0
    assert "sglang" in (out / "server.sh").read_text() and (out / "notes").read_text() == "keep"


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("planner.file_writer.os.rename", full)
    with pytest.raises(BadInput, match="No space left"):
        write_files({"a": "1", "b/c": "2"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_cannot_be_a_file(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(BadInput, match="is a file; name a folder"):
        write_files({"a": "1"}, tmp_path / "out")
    with pytest.raises(BadInput, match="choose a writable folder"):
        write_files({"a": "1"}, tmp_path / "out" / "deeper")
    (tmp_path / "full" / "a").mkdir(parents=True)
    with pytest.raises(BadInput, match="holds a folder a"):
        write_files({"a": "1"}, tmp_path / "full", force=True)


def test_an_srt_slurm_recipe_keeps_its_workload(tmp_path):
    done = servecast("export", "--recipe", SRT, "--format", "srt-slurm", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    (file,) = (tmp_path / "out").iterdir()
    before, after = load_recipe(SRT), load_recipe(file)
    assert after.workload == before.workload and after.recipe.digest == before.recipe.digest


def test_bad_options(tmp_path):
    recipe, out = recipe_file(tmp_path), tmp_path / "out"
    for arguments, wanted in (
        ((), "Give either --recipe or --table"),
        (("--recipe", recipe, "--table", recipe), "Give either"),
        (("--table", dispatch_file(tmp_path), "--concurrency", "1"), "goes with --recipe"),
        (("--recipe", recipe, "--concurrency", "1,x"), "concurrency='x' must be a whole number above 0"),
        (("--recipe", recipe, "--engine-version", "0.4"), "0.5.23"),
        (("--table", tmp_path / "none.json"), "no such file"),
        (("--table", recipe), "not valid JSON at line 1"),
        (("--recipe", recipe_file(tmp_path, {"attention_dp": 3})), "attention_dp=3 must divide tp=8"),
    ):
        done = servecast("export", "--format", "sglang", "--out", out, *arguments)
        assert done.exit_code == 2 and wanted in done.stderr and not out.exists()


def test_a_table_is_one_override_file_or_one_master_entry(tmp_path):
    table = dispatch_file(tmp_path)
    done = servecast(
        "export", "--table", table, "--format", "srt-slurm", "--one-file", "--out", tmp_path / "one"
    )
    assert done.exit_code == 0, done.stderr
    (file,) = (tmp_path / "one").iterdir()
    assert len(load_all(file)) == 2
    done = servecast("export", "--table", table, "--format", "inferencex", "--out", tmp_path / "ix")
    assert done.exit_code == 0, done.stderr
    assert "conc-list" in (tmp_path / "ix" / "nvidia-master.yaml").read_text()


def test_a_diff_names_fields_values_and_restarts(tmp_path):
    pair = ("disagg-mid-curve-2p1d-dep4-dep8-mtp", "disagg-mid-curve-4p1d-dep4-dep8-mtp")
    done = servecast("export", "--diff", *pair)
    assert done.exit_code == 0, done.stderr
    assert "prefill  num_workers                  2     4" in done.stdout
    assert "prefill restarts; decode restarts (16 GPUs drain, 24 GPUs start)" in done.stdout
    found = json.loads(servecast("export", "--diff", *pair, "--json").stdout)
    assert {c["field"] for c in found["changes"] if c["role"] == "decode"} == {"graph_max_batch_per_rank"}
    alone = servecast("export", "--diff", *pair, "--format", "sglang")
    assert alone.exit_code == 2 and "--diff stands alone" in alone.stderr

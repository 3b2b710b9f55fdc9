"""The commands around accuracy: cross-validation, uncertainty of a calibration, intervals of a simulation."""

import json

import pytest

from planner import calibrate
from planner.posterior import parameters_of
from simulator.calibration import load_calibration
from tests.planner_tests.samples import recipe_file, servecast

POINT = """
- id: {name}
  trust: A
  source: {{ref: '{source}', date: '2026-06-03'}}
  engine: {{name: sglang, version_or_image: '0.5.15'}}
  hardware: {hardware}
  model: DeepSeek-V4-Pro
  precision: fp4
  mode: agg
  gpus_total: 8
  worker: {{workers: 1, gpus_per_worker: 8, tp: 8, dp: 1, ep: 1, pp: 1, dp_attention: false,
    flags: {{moe-runner-backend: flashinfer_mxfp4, mem-fraction-static: 0.9,
      max-running-requests: {running}}}}}
  mtp: {{enabled: false}}
  moe_backend: flashinfer_mxfp4
  workload: {{dataset: random (sa-bench), isl: 512, osl: 32, random_range_ratio: 0.8,
    max_concurrency: {load}, num_prompts: 8}}
  measured: {{total_tok_s_per_gpu: {rate}, median_tpot_ms: {tpot}, median_ttft_ms: 200}}
"""


@pytest.fixture
def points(tmp_path, monkeypatch):
    """Four groups of one point each, and two parameters instead of all."""
    monkeypatch.setattr(calibrate, "SHARED_PARAMETERS", ("decode_slowdown",))
    monkeypatch.setattr(calibrate, "HOST_PARAMETERS", ("decode_exposed_sequence_s",))
    rows = (("b200", 1, 12.0), ("b200", 2, 12.5), ("b300", 4, 13.0), ("b300", 8, 14.0))
    text = "".join(
        POINT.format(
            name=f"p{load}", source=f"source {load}", hardware=hardware, load=load, running=load + 8,
            tpot=tpot, rate=load * 500 / (0.5 * tpot) / 8,
        )
        for hardware, load, tpot in rows
    )  # fmt: skip
    file = tmp_path / "points.yaml"
    file.write_text(text)
    return file


def test_cross_validation_from_the_command_line(points, tmp_path):
    page, out = tmp_path / "docs" / "accuracy.md", tmp_path / "found.json"
    few = ("--folds", 4, "--evaluations", 1, "--workers", 1, "--cache", tmp_path / "cache")
    args = ("validate", points, "--cross-validate", *few)
    done = servecast(*args, "--page", page, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "Out of fold" in done.stdout and "platform never seen" in done.stdout
    assert {p["fold"] for p in json.loads(out.read_text())["cross_validation"]["points"]} == {
        "1",
        "2",
        "3",
        "4",
    }
    assert page.exists() and (page.parent / "accuracy-parity.svg").exists()
    again = servecast(*args, "--max-error", 0.0001)
    assert again.exit_code == 4 and "out-of-fold median" in again.stderr
    assert again.stdout == done.stdout and "simulated 0 settings" in again.stderr


def test_a_page_needs_a_cross_validation(points):
    done = servecast("validate", points, "--page", "x.md")
    assert done.exit_code == 2 and "add --cross-validate" in done.stderr


def test_uncertainty_is_added_and_values_stay(points, tmp_path):
    out = tmp_path / "mine.json"
    args = ("calibrate", points, "--only-uncertainty", "--out", out, "--folds", 3, "--workers", 1)
    done = servecast(*args, "--cache", tmp_path / "cache", "--leave-out", "p8")
    assert done.exit_code == 0, done.stderr
    found = load_calibration(str(out))
    assert found.digest == load_calibration().digest and found.left_out == ("p8",)
    assert found.posterior is not None and found.error_bands is not None
    assert set(found.posterior.parameters) == {"x86.decode_exposed_sequence_s", "decode_slowdown"}
    assert len(parameters_of(found.posterior)) == 2 and found.error_bands.hardware == ["b200", "b300"]
    assert "pinned by" in done.stdout


def test_leaving_out_what_is_not_there(points, tmp_path):
    done = servecast("calibrate", points, "--out", tmp_path / "x.json", "--leave-out", "q*")
    assert done.exit_code == 2 and "leave_out='q*' matches no usable point" in done.stderr


def test_the_shipped_calibration_says_how_certain_it_is():
    shipped = load_calibration()
    assert shipped.posterior is not None and shipped.error_bands is not None
    for name, known in shipped.posterior.parameters.items():
        param = calibrate.parameter_named(name)
        assert param.low <= known.low <= calibrate.value_of(shipped, param) * 1.001
        assert calibrate.value_of(shipped, param) <= known.high * 1.001 <= param.high * 1.01


def test_simulate_shows_intervals(tmp_path):
    args = ("simulate", "--recipe", recipe_file(tmp_path), "--isl", 512, "--osl", 32, "--concurrency", 2)
    done = servecast(*args, "--num-prompts", 4, "--no-explain")
    assert done.exit_code == 0, done.stderr
    assert "four in five such deployments measure" in done.stdout
    shown = json.loads(servecast(*args, "--num-prompts", 4, "--no-explain", "--json", "--draws", 2).stdout)
    for name, interval in shown["intervals"].items():
        assert interval["low"] < shown["metrics"][name] < interval["high"]
    assert shown["spread"]["median_tpot_ms"]["draws"] == 2

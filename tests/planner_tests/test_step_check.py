"""What recorded steps say about the step model, and the commands that print it."""

from pathlib import Path

import numpy as np
import pytest

from planner.live_check import live_results
from planner.step_check import check_steps, kernel_checks, slopes, summaries
from planner.step_check_text import BEGIN, END, check_markdown, with_section
from profiler.step_fit import StepFit, fit
from search_spaces.errors import OutOfTolerance
from search_spaces.step_profile import load_step_profile, shipped_step_profiles
from tests.planner_tests.samples import servecast
from tests.profiler_tests.test_step_records import decode, prefill, recording


@pytest.fixture(scope="module")
def found() -> StepFit:
    return fit([load_step_profile(name) for name in shipped_step_profiles()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "held_out", "median", "worst"),
    [
        ("decode", 35, 0.02, 0.08),
        ("prefill", 27, 0.06, 0.35),
        ("verify", 1, 0.06, 0.06),
        ("iteration", 1, 0.1, 0.1),
    ],
)
def test_held_out_half_is_predicted(
    found: StepFit, kind: str, held_out: int, median: float, worst: float
) -> None:
    (total,) = (s for s in summaries(found) if s.profile == "all" and s.kind == kind)
    assert total.held_out >= held_out
    assert total.median_abs is not None and total.worst is not None
    assert total.median_abs <= median and abs(total.worst) <= worst


@pytest.mark.slow
def test_every_configuration_decodes_as_predicted(found: StepFit) -> None:
    decode = [s for s in summaries(found) if s.kind == "decode" and s.held_out]
    assert {s.profile for s in decode} >= {
        "h100-flash8-triton", "h200-flash4-triton", "h200-flash8-deepgemm", "h200-flash8-marlin",
    }  # fmt: skip
    assert all((s.median_abs or 0) <= 0.03 for s in decode)


@pytest.mark.slow
def test_fitted_quantities_are_inside_their_bounds(found: StepFit) -> None:
    for param, value in zip(found.parameters, found.values, strict=True):
        share = (value - param.low) / (param.high - param.low)
        assert 0 < share < 0.9, (param.host, param.name, value)


@pytest.mark.slow
def test_two_depths_give_the_slope_per_layer(found: StepFit) -> None:
    errors = [s.predicted_s / s.observed_s - 1 for s in slopes(found)]
    assert len(errors) >= 16
    assert np.median(np.abs(errors)) < 0.05 and np.max(np.abs(errors)) < 0.12


@pytest.mark.slow
def test_expert_kernel_fitted_to_steps_is_the_one_timed_alone(found: StepFit) -> None:
    checks = kernel_checks(found)
    assert {c.hardware for c in checks} == {"h100", "h200"}
    assert all(c.shapes == 15 and c.median_abs < 0.12 for c in checks)


def test_loads_against_the_engine_are_predicted() -> None:
    results = live_results(fit([load_step_profile("h200-flash8-triton")]))
    loads = {r.run.workload.concurrency for r in results if not r.calibrating}
    assert loads == {8, 16, 64, 256} and all(r.run.repeat > 0 for r in results)
    bounds = {"output_tokens_per_s_per_gpu": 0.12, "mean_tpot_ms": 0.12, "mean_ttft_ms": 0.35}
    for result in results:
        assert abs(result.error) < bounds[result.metric], (result.run.workload, result.metric)


def test_tolerance_and_document() -> None:
    known = fit([load_step_profile("h200-flash8-marlin")])
    with pytest.raises(OutOfTolerance, match="decode: median absolute error"):
        check_steps(known, 1e-6)
    section = check_markdown(known)
    document = with_section("# Live\n\nText.\n", section)
    assert document.startswith("# Live\n\nText.\n\n" + BEGIN) and document.rstrip().endswith(END)
    assert with_section(document, section) == document
    assert with_section(document + "\nMore.\n", section).endswith("More.\n")
    assert load_step_profile("h200-flash8-marlin").digest in section


def test_check_prints_errors_and_keeps_the_rest_of_the_document(tmp_path: Path) -> None:
    document = tmp_path / "live.md"
    document.write_text("# Live\n")
    done = servecast("profile", "check", "h200-flash8-marlin", "--write", str(document), "--max-error", "12")
    assert done.exit_code == 0, done.output
    assert "Errors on the held-out half" in done.stdout and "read_fraction" in done.stdout
    text = document.read_text()
    assert text.startswith("# Live\n") and load_step_profile("h200-flash8-marlin").digest in text
    assert "What is not explained" in text
    again = servecast("profile", "check", "h200-flash8-marlin", "--write", str(document))
    assert again.exit_code == 0 and document.read_text() == text


def test_check_refuses_unknown_profiles_and_large_errors() -> None:
    assert servecast("profile", "check", "h300").exit_code == 5
    done = servecast("profile", "check", "h200-flash8-marlin", "--max-error", "0")
    assert done.exit_code == 4 and "held-out settings" in done.output


def test_a_recording_becomes_a_profile_that_can_be_checked(tmp_path: Path) -> None:
    sizes = (1, 4, 64)
    passes = [decode(i, bs) for bs in sizes for i in range(14)]
    passes += [prefill(t, tokens, 31.0) for tokens in (512, 1024) for t in range(3)]
    folder = tmp_path / "recording"
    folder.mkdir()
    done = servecast(
        "profile", "import", "steps", "--source", str(recording(folder, passes)), "--name", "mine",
        "--model", "dsv4-flash", "--layers", "4", "--hardware", "h200", "--device", "NVIDIA H200",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (file,) = (Path(line) for line in done.stdout.split())
    assert [row.sequences for row in load_step_profile(str(file)).rows if row.mode == "decode"] == list(sizes)
    assert "mine" in servecast("profile", "check", str(file)).stdout

"""The step model against recorded engine steps: half calibrates, half is predicted."""

from __future__ import annotations

import numpy as np
import pytest

from planner.step_check import check_steps, kernel_checks, slopes, summaries
from planner.step_check_text import BEGIN, END, check_markdown, with_section
from profiler.step_fit import StepFit, fit, predicted_s, scenario_of, targets_of
from search_spaces.errors import BadInput, OutOfTolerance
from search_spaces.step_profile import load_step_profile, shipped_step_profiles


@pytest.fixture(scope="module")
def found() -> StepFit:
    return fit([load_step_profile(name) for name in shipped_step_profiles()])


def test_no_shape_is_on_both_sides() -> None:
    for name in shipped_step_profiles():
        sides: dict[tuple[object, ...], set[bool]] = {}
        targets = targets_of(load_step_profile(name))
        for target in targets:
            key = target.row.mode, target.row.sequences, target.row.new_tokens
            sides.setdefault(key, set()).add(target.held_out)
        assert all(len(side) == 1 for side in sides.values())
        assert not all(target.held_out for target in targets)


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


def test_one_platform_predicts_the_other_and_another_depth() -> None:
    known = fit([load_step_profile("h200-flash8-triton")])
    calibration = known.calibrations["h200-flash8-triton"]
    for name in ("h100-flash8-triton", "h200-flash4-triton", "h200-flash8-triton-b", "h200-flash8-eagle"):
        unseen = load_step_profile(name)
        # Below four sequences a shallow model waits for the host, whose speed is its own.
        targets = [
            t
            for t in targets_of(unseen)
            if (t.kind == "decode" and t.row.sequences >= 4) or t.kind == "verify"
        ]
        seconds = predicted_s(scenario_of(unseen, calibration), targets)
        errors = seconds / np.array([t.seconds for t in targets]) - 1
        assert len(errors) >= 2 and np.median(np.abs(errors)) < 0.04, name


def test_without_the_mechanism_the_error_is_large() -> None:
    """Weights of all experts a balanced deal would hit are not what a uniform router reads."""
    profile = load_step_profile("h200-flash8-triton")
    known = fit([profile])
    skewed = known.calibrations[profile.name].model_copy(update={"routing_alpha": 1.2})
    targets = [t for t in targets_of(profile) if t.kind == "decode" and t.row.sequences in (32, 64, 128)]
    seconds = predicted_s(scenario_of(profile, skewed), targets)
    assert np.median(np.abs(seconds / np.array([t.seconds for t in targets]) - 1)) > 0.10


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


def test_unknown_release_and_mixed_architectures_are_refused() -> None:
    profile = load_step_profile("h200-flash8-marlin")
    known = fit([profile]).calibrations[profile.name]
    with pytest.raises(BadInput, match=r"engine_version='9\.9'"):
        scenario_of(profile.model_copy(update={"engine_version": "9.9"}), known)
    with pytest.raises(BadInput, match="compute capabilities"):
        fit([profile, profile.model_copy(update={"hardware": "b200", "name": "other"})])

"""The step model against recorded engine steps: half calibrates, half is predicted."""

from __future__ import annotations

import numpy as np
import pytest

from profiler.step_fit import fit, predicted_s, scenario_of, targets_of
from search_spaces.errors import BadInput
from search_spaces.step_profile import load_step_profile, shipped_step_profiles


def test_no_shape_is_on_both_sides() -> None:
    for name in shipped_step_profiles():
        sides: dict[tuple[object, ...], set[bool]] = {}
        targets = targets_of(load_step_profile(name))
        for target in targets:
            key = target.row.mode, target.row.sequences, target.row.new_tokens
            sides.setdefault(key, set()).add(target.held_out)
        assert all(len(side) == 1 for side in sides.values())
        assert not all(target.held_out for target in targets)


def test_held_out_shapes_of_two_platforms_are_predicted() -> None:
    found = fit([load_step_profile(name) for name in ("h100-flash8-triton", "h200-flash8-triton")])
    for kind, bound in (("decode", 0.03), ("prefill", 0.06)):
        pairs = zip(found.targets, found.errors, strict=True)
        errors = [e for t, e in pairs if t.kind == kind and t.held_out]
        assert len(errors) >= 15 and np.median(np.abs(errors)) < bound


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
    skewed = known.calibrations[profile.name].model_copy(update={"decode_routing_alpha": 1.2})
    targets = [t for t in targets_of(profile) if t.kind == "decode" and t.row.sequences in (32, 64, 128)]
    seconds = predicted_s(scenario_of(profile, skewed), targets)
    assert np.median(np.abs(seconds / np.array([t.seconds for t in targets]) - 1)) > 0.10


def test_unknown_release_and_mixed_architectures_are_refused() -> None:
    profile = load_step_profile("h200-flash8-marlin")
    known = fit([profile]).calibrations[profile.name]
    with pytest.raises(BadInput, match=r"engine_version='9\.9'"):
        scenario_of(profile.model_copy(update={"engine_version": "9.9"}), known)
    with pytest.raises(BadInput, match="compute capabilities"):
        fit([profile, profile.model_copy(update={"hardware": "b200", "name": "other"})])

"""`servecast space check`: its counts, its exit codes and its words."""

from __future__ import annotations

import json

import yaml

from tests.planner_tests.samples import servecast

SPACE = {
    "name": "mine",
    "mode": "aggregated",
    "models": ["deepseek-v4-pro"],
    "aggregated": {
        "plans": ["TP8", "DEP8"],
        "workers": [1, 2],
        "knobs": {"mem_fraction_static": [0.9, 0.92], "megamoe_cap_tokens": ["=practice", 1024]},
    },
}


def space_file(folder, **changes):
    file = folder / f"space{len(list(folder.iterdir()))}.yaml"
    file.write_text(yaml.safe_dump({**SPACE, **changes}, sort_keys=False))
    return file


def test_a_file_is_counted_and_what_it_lacks_is_named(tmp_path):
    done = servecast("space", "check", space_file(tmp_path), "--hardware", "b300", "--num-gpus", 8)
    assert done.exit_code == 0, done.stderr
    assert "layouts                                    4" in done.stdout
    assert "break megamoe-cap-prefill" in done.stdout
    assert "Public recipes without MTP: holds 0 of 11" in done.stdout
    assert "aggregated.plan=TP4 (offered: TP8, DEP8)" in done.stdout
    strict = servecast("space", "check", tmp_path / "space0.yaml", "--hardware", "b300", "--strict")
    assert strict.exit_code == 4 and "public operating points are outside" in strict.stderr


def test_a_shipped_lane_holds_its_recipes_in_json():
    done = servecast("space", "check", "b200-disagg-pro-mtp", "--json", "--strict")
    assert done.exit_code == 0, done.stderr
    (report,) = json.loads(done.stdout)
    (public,) = report["public"]
    assert public["drafting"] and public["recipes"] == 5 and public["absent"] == []
    assert report["recipes"] > report["lawful"] > 10**6
    assert sum(report["by_choice"]["decode.plan"].values()) == report["lawful"]


def test_what_is_refused(tmp_path):
    for arguments, code, wanted in (
        (("gb999",), 2, "is neither a file nor a shipped lane"),
        ((space_file(tmp_path),), 2, "add --hardware"),
        ((tmp_path / "none.yaml", "--hardware", "b300"), 2, "no such file"),
        ((space_file(tmp_path), "--hardware", "b300", "--num-gpus", 4), 3, "smallest layout takes 8 GPUs"),
        ((space_file(tmp_path, models=[]), "--hardware", "b300"), 2, "names no model"),
        ((space_file(tmp_path, colour=1), "--hardware", "b300"), 2, "unknown key colour=1"),
        (
            (
                space_file(
                    tmp_path,
                    aggregated={"plans": ["DEP8"], "workers": [1], "knobs": {"megamoe_cap_tokens": 8}},
                ),
                "--hardware",
                "b300",
            ),
            3,
            "every recipe breaks a law (megamoe-cap-decode, megamoe-cap-prefill)",
        ),
    ):
        done = servecast("space", "check", *arguments)
        assert done.exit_code == code and wanted in done.stderr, (arguments, done.stderr)

"""`servecast dispatch lookup`."""

from __future__ import annotations

import json

from tests.planner_tests.samples import servecast
from tests.search_spaces_tests.test_dispatch_lookup import table


def test_a_load_names_recipe_limits_expectation_and_hysteresis(tmp_path):
    file = tmp_path / "dispatch.json"
    file.write_text(table().model_dump_json())
    done = servecast("dispatch", "lookup", file, 300)
    assert done.exit_code == 0, done.stderr
    for words in (
        "serves      concurrency 257-1024",
        "requests decode at once",
        "TTFT",
        "hysteresis  up at 1280",
    ):
        assert words in done.stdout
    kept = json.loads(servecast("dispatch", "lookup", file, 270, "--serving", 1, "--json").stdout)
    assert kept["row"] == 1 and not kept["switched"]
    left = servecast("dispatch", "lookup", file, 400, "--serving", 1)
    assert "switch      " in left.stdout and "warm-up 600 s" in left.stdout


def test_what_is_refused(tmp_path):
    file = tmp_path / "dispatch.json"
    file.write_text(table().model_dump_json())
    for arguments, wanted in (
        ((file, 9999), "concurrency=9999 is in no row"),
        ((file, 9, "--serving", 7), "serving=7 is no row"),
        ((tmp_path / "none", 9), "no such file"),
    ):
        done = servecast("dispatch", "lookup", *arguments)
        assert done.exit_code == 2 and wanted in done.stderr
    plan = ("plan", "--model", "deepseek-v4-pro", "--hardware", "gb300", "--out", tmp_path / "o")
    for text in ("64", "64:x", "0:1", "64:0"):
        done = servecast(*plan, "--traffic", text)
        assert done.exit_code == 2 and "traffic=" in done.stderr

"""`servecast catalog` and `servecast profile`."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from planner.catalog_text import KINDS, list_text
from planner.commands import catalog as catalog_command
from planner.recipe_source import named_recipes
from profiler.aiconfigurator import PACKAGE
from search_spaces import catalog_loader
from search_spaces.hardware import Hardware
from search_spaces.recipe import Recipe
from tests.planner_tests.samples import servecast


def test_overview_and_kinds():
    assert catalog_command.KINDS == KINDS
    text = servecast("catalog").output
    assert all(kind in text for kind in KINDS) and "gb300" in text
    assert set(json.loads(servecast("catalog", "--json").stdout)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_show_every_entry(kind):
    data = json.loads(servecast("catalog", kind, "--json").stdout)
    text = servecast("catalog", kind).stdout
    assert data and all(name in text for name in data)


@pytest.mark.parametrize(
    ("kind", "name"), [("hardware", "GB300"), ("models", "deepseek-v4-flash"), ("stacks", "june")]
)
def test_one_entry_with_its_sources(kind, name):
    done, data = (
        servecast("catalog", kind, name),
        json.loads(servecast("catalog", kind, name, "--json").stdout),
    )
    assert done.exit_code == 0 and all(field in done.stdout for field in data.keys() - {"sources"})
    assert all(source in done.stdout for source in data.get("sources", {}).values())


def test_json_reads_back():
    data = json.loads(servecast("catalog", "hardware", "gb300", "--json").stdout)
    assert Hardware.parse(data, "stdout") == catalog_loader.hardware("gb300")
    listed = json.loads(servecast("catalog", "recipes", "--json").stdout)
    assert {n: Recipe.parse(r, n) for n, r in listed.items()} == named_recipes()


def test_recipes_are_filtered():
    text = servecast("catalog", "recipes", "--hardware", "h200", "--model", "DeepSeek-V4-Flash").stdout
    rows = text.splitlines()[1:]
    assert rows and all("h200" in row and "DeepSeek-V4-Flash" in row for row in rows)
    named = named_recipes().values()
    assert len(rows) == sum((r.hardware, r.model) == ("h200", "deepseek-ai/DeepSeek-V4-Flash") for r in named)
    assert list_text("recipes", {}) == "no public recipe is known for these filters"


def test_a_recipe_prints_as_a_file_that_simulates(tmp_path):
    name = "catalog:cookbook/b200-flash-fp4-balanced"
    file = tmp_path / "recipe.yaml"
    file.write_text(servecast("catalog", "recipes", name).stdout)
    options = ("--isl", 256, "--osl", 16, "--concurrency", 1, "--num-prompts", 1, "--no-explain")
    assert servecast("simulate", "--recipe", file, *options).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("hardware", "tpu"), "hardware='tpu' is not in the catalog"),
        (("models", "gpt"), "model='gpt' is not in the catalog"),
        (("stacks", "x"), "stack='x' is not in the catalog"),
        (("recipes", "x"), "recipe='x' is no public recipe"),
        (("gpus",), "'gpus' is not one of"),
        (("hardware", "--model", "x"), "filter the list"),
        (("recipes", "--hardware", "tpu"), "hardware='tpu' is not in the catalog"),
    ],
)
def test_unknown_names(arguments, wanted):
    done = servecast("catalog", *arguments)
    assert done.exit_code == 2 and wanted in done.stderr and "Traceback" not in done.stderr


def test_profile_import_is_wired(tmp_path, monkeypatch):
    written: dict[str, Any] = {}

    def importer(source, out, systems):
        written.update(source=source, out=out, systems=systems)
        return {"gb300": out / "gb300.npz"}

    monkeypatch.setattr("profiler.aiconfigurator.import_profiles", importer)
    done = servecast(
        "profile", "import", "aiconfigurator", "--source", "a.whl", "--out", tmp_path, "--system", "gb300"
    )
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / 'gb300.npz'}\n"
    assert str(written["source"]) == "a.whl" and written["systems"] == ("gb300",)


def test_profile_import_errors(tmp_path, monkeypatch):
    absent = servecast("profile", "import", "aiconfigurator", "--source", tmp_path / "no", "--out", tmp_path)
    assert absent.exit_code == 5 and "does not exist" in absent.stderr
    unknown = servecast("profile", "import", "aiconfigurator", "--out", tmp_path, "--system", "tpu")
    assert unknown.exit_code == 2 and "systems='tpu' is not a platform" in unknown.stderr
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    assert (
        servecast("profile", "import", "aiconfigurator", "--out", tmp_path, "--system", "gb300").exit_code
        == 5
    )

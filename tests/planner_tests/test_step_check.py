"""`servecast profile check` and `servecast profile import steps` as programs."""

from pathlib import Path

from search_spaces.step_profile import load_step_profile
from tests.planner_tests.samples import servecast
from tests.profiler_tests.test_step_records import decode, prefill, recording


def test_check_prints_errors_and_keeps_the_rest_of_the_document(tmp_path: Path) -> None:
    document = tmp_path / "live.md"
    document.write_text("# Live\n")
    done = servecast(
        "profile", "check", "h200-flash8-marlin", "--write", str(document), "--max-error", "12"
    )
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

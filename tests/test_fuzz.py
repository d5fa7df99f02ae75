"""What is read from files, fuzzed by coverage (tests/fuzz/fuzz.py); and that the fuzzer finds what is wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

TARGETS = ["model", "checkpoint", "onnx"]
SECONDS = 60
SCRIPT = Path(__file__).parent / "fuzz" / "fuzz.py"


def fuzz(target, seconds, folder, *options):
    pytest.importorskip("atheris", reason="atheris is not installed: pip install 'schuss[full]'")
    command = [sys.executable, str(SCRIPT), target, str(seconds), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_give_a_good_object_or_the_documented_error(target, tmp_path):
    done = fuzz(target, SECONDS, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    tried, taken = (int(number) for number in re.findall(r"(\d+) inputs (\d+) taken", done.stdout)[-1])
    assert tried > 50 * SECONDS
    assert taken > tried / 50
    print(done.stdout)


@pytest.mark.parametrize("target", TARGETS)
def test_a_reader_that_checks_less_is_found(target, tmp_path):
    done = fuzz(target, SECONDS, tmp_path, "--mistake")
    assert done.returncode != 0
    assert "fuzz target exited" in done.stderr

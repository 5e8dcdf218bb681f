"""A short run of tests/soak.py, in a process of its own: it forks before autograd has threads."""

import os
import subprocess
import sys


def test_a_training_that_is_killed_a_few_times_equals_one_that_is_not(repo):
    result = subprocess.run(
        [sys.executable, repo / "tests" / "soak.py", "--kills", "2", "--iterations", "8"],
        env=os.environ | {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "equal after" in result.stdout

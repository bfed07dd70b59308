"""The module runs as the command does."""

import subprocess
import sys

import nmtrain


def test_python_m_nmtrain_is_the_command():
    done = subprocess.run([sys.executable, "-m", "nmtrain", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{nmtrain.__version__}\n")

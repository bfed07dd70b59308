"""Everything stands in pyproject.toml; this only keeps what an earlier build left in build/ out of a wheel."""

import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildFromNothing(build_py):
    """setuptools itself copies over what is there, and packs files that no longer exist."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(cmdclass={"build_py": BuildFromNothing})

"""Packs the scripts, which lie beside moco_tf in a checkout, into moco_tf/scripts; all else is in
pyproject.toml."""

import glob
import os

from setuptools import setup
from setuptools.command.build_py import build_py

SCRIPTS = ("train.py", "evaluate.py", "demo.py", "configs/*", "export/*")


class BuildWithScripts(build_py):
    def scripts(self):
        """The files in the checkout, by where they are built."""
        folder = os.path.join(self.build_lib, "moco_tf", "scripts")
        found = [path for pattern in SCRIPTS for path in sorted(glob.glob(pattern))]
        return {os.path.join(folder, path): path for path in found if os.path.isfile(path)}

    def run(self):
        super().run()
        if not self.editable_mode:  # which finds them where they are
            for target, source in self.scripts().items():
                self.mkpath(os.path.dirname(target))
                self.copy_file(source, target)

    def get_source_files(self):
        return [*super().get_source_files(), *self.scripts().values()]

    def get_outputs(self, include_bytecode=1):
        return list(dict.fromkeys([*super().get_outputs(include_bytecode), *self.scripts()]))

    def get_output_mapping(self):
        return {**super().get_output_mapping(), **self.scripts()}


setup(cmdclass={"build_py": BuildWithScripts})

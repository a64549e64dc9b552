"""Package metadata comes from settings.ini; this file hands it over and puts a copy of settings.ini into the package."""
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ini = ConfigParser(delimiters=["="])
ini.read("settings.ini", encoding="utf-8")
s = ini["DEFAULT"]
EXTRAS = {k.removesuffix("_requirements"): v.split() for k, v in s.items() if k.endswith("_requirements")}


class BuildWithSettings(build_py):
    """The run profiles must exist in an installed copy too (Colab, a wheel)."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copy("settings.ini", Path(self.build_lib) / s["lib_path"] / "settings.ini")


setup(version=s["version"], description=s["description"], keywords=s["keywords"].split(),
      author=s["author"], author_email=s["author_email"], url=s["git_url"],
      packages=find_packages(include=[s["lib_path"] + "*"]), include_package_data=True,
      install_requires=s["requirements"].split(), extras_require=EXTRAS,
      cmdclass={"build_py": BuildWithSettings},
      entry_points={"console_scripts": s["console_scripts"].split(),
                    "nbdev": [f"{s['lib_path']}={s['lib_path']}._modidx:d"]})

"""Names: every module can be imported by its own."""

import importlib
import pkgutil
import sys

import latentia


def test_no_module_is_hidden_by_a_function_of_its_name() -> None:
    names = [info.name for info in pkgutil.walk_packages(latentia.__path__, "latentia.") if "__main__" not in info.name]
    for name in names:
        importlib.import_module(name)
    for name in names:
        package, last = name.rsplit(".", 1)
        assert getattr(sys.modules[package], last) is sys.modules[name]

"""`python -I <this file> kernel|forkserver <file or JSON>`: entry point inside the sandbox.

Started as a plain file from a read-only mount, so the package is put together by hand, under a name that
cannot be shadowed by, or shadow, a module of the code that will run.
"""

import importlib.util
import json
import os
import sys

PACKAGE = "_sandbox_kernel"


def main() -> None:
    """Load this folder as a package and hand over to the role asked for.

    `kernel <policy file>`: one kernel, cold. `forkserver <JSON>`: the pre-forked parent of many.
    """
    role, argument = sys.argv[1:3]
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    if role == "kernel":
        importlib.import_module(f"{PACKAGE}.boot").start(argument)
    elif role == "forkserver":
        importlib.import_module(f"{PACKAGE}.forkserver").serve(json.loads(argument))
    else:
        raise SystemExit(f"unknown role {role!r}")


if __name__ == "__main__":
    main()

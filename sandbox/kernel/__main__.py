"""`python -I <this file> <JSON>`: the fork server, inside the sandbox.

Started as a plain file from a read-only mount, so the package is put together by hand, under a name that
cannot be shadowed by, or shadow, a module of the code that will run.
"""

import importlib.util
import json
import os
import sys

PACKAGE = "_sandbox_kernel"


def main() -> None:
    """Load this folder as a package and serve."""
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    importlib.import_module(f"{PACKAGE}.forkserver").serve(json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()

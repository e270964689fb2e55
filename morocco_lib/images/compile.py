"""Runs inside a build: bytecode for everything below a folder. A package may carry a file that is no Python of today."""

import compileall
import py_compile
import sys

compileall.compile_dir(sys.argv[1], quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)

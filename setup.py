"""Builds the compiled core; everything else is in pyproject.toml."""

from pathlib import Path

import pyarrow as pa
from Cython.Build import cythonize
from setuptools import Extension, setup

DIRECTIVES = {
    "language_level": "3",
    # Untrusted bytes are bounds-checked where they are read, by hand and by test.
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": False,
}

EXTENSIONS = [
    Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        include_dirs=[pa.get_include()],
        extra_compile_args=["-O3", "-fno-strict-aliasing"],
    )
    for folder in ("bridge", "downsample")
    for source in sorted(Path(folder).rglob("_*.pyx"))
]

setup(ext_modules=cythonize(EXTENSIONS, compiler_directives=DIRECTIVES, quiet=True))

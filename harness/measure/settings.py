"""What changes the speed or the precision of a training from outside its code.

Variables of the environment, and settings of the frameworks that this process has imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from harness.backend.protocol import NamesCompilerOptions

# With these, the harness sets the number of threads of OpenMP, BLAS libraries and frameworks.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",
    "NUMBA_NUM_THREADS",
    "JULIA_NUM_THREADS",
)

# These change times, or what is computed, of every program or of a framework as a whole: threads,
# instructions, memory, compilers.
# Not those that packages set when they are imported (threadpoolctl, scikit-learn), because the
# processes of a notebook inherit them.
_CHANGES_TIMES = re.compile(
    "(?!KMP_(DUPLICATE_LIB_OK|INIT_AT_FORK)$)"
    "((DNNL|GOMP|KMP|MKL|OMP|ONEDNN|OPENBLAS|(MI|TC)?MALLOC)_|GLIBC_TUNABLES|LD_PRELOAD"
    "|ATEN_CPU_CAPABILITY|PYTORCH_(CUDA_)?ALLOC_CONF|(TF_)?XLA_FLAGS|JAX_DISABLE_JIT"
    "|CUDA_LAUNCH_BLOCKING|PYTHON(DEVMODE|MALLOC|_GIL|_JIT))"
)
# Recorded with every trial, too, but not all of them change times. Caches are always empty.
_OF_FRAMEWORKS = re.compile(
    "(?!.*_CACHE_(DIR|PATH)$)"
    "(ATEN|CUBLAS|CUDA|CUDNN|JAX|JULIA|NPROC|NUMBA|NVIDIA_TF32|PYTHONOPTIMIZE|PYTORCH|TF_ENABLE"
    "|TORCH|TRITON|VECLIB|XLA)"
)

# Attributes of frameworks, and functions without arguments.
_GETTERS = {
    "jax": (
        *("config.jax_default_matmul_precision", "config.jax_enable_x64"),
        *("config.jax_disable_jit", "config.jax_debug_nans", "config.jax_enable_compilation_cache"),
    ),
    "torch": (
        *("get_float32_matmul_precision", "backends.cuda.matmul.fp32_precision"),
        *("backends.cudnn.conv.fp32_precision", "backends.cudnn.rnn.fp32_precision"),
        *("backends.mkldnn.matmul.fp32_precision", "backends.mkldnn.rnn.fp32_precision"),
        *("backends.mkldnn.enabled", "backends.cudnn.benchmark", "backends.cudnn.deterministic"),
        *("are_deterministic_algorithms_enabled", "backends.cpu.get_cpu_capability"),
    ),
}


def changes_times(variable: str) -> bool:
    """Whether times may differ between two processes in which this variable differs.

    The numbers of threads are not among them: the harness sets those.
    """
    return bool(_CHANGES_TIMES.match(variable)) and variable not in THREAD_VARIABLES


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `env:NAME` of the variables that matter to a training."""
    return {
        f"env:{name}": value
        for name, value in sorted(environment.items())
        if _CHANGES_TIMES.match(name) or _OF_FRAMEWORKS.match(name)
    }


def describe(given: Mapping[str, str], backend: object, device: str) -> dict[str, str]:
    """Return the variables that this process was started with, and `setting:NAME` of what it set.

    The latter are variables, the precision and the mode of each framework that it has imported, and
    the compiler options of the backend (`NamesCompilerOptions`).
    """
    before, now = variables(given), variables(os.environ)
    own = {name[4:]: value for name, value in now.items() if before.get(name) != value}
    if isinstance(backend, NamesCompilerOptions) and (options := backend.compiler_options(device)):
        own["compiler_options"] = " ".join(f"{name}={value}" for name, value in options.items())
    return before | {f"setting:{name}": value for name, value in (own | dict(_modes())).items()}


def _modes() -> Iterator[tuple[str, str]]:
    for framework, getters in _GETTERS.items():
        for getter in getters if framework in sys.modules else ():
            # Another version may lack it, or refuse to tell.
            with suppress(AttributeError, RuntimeError):
                found: Any = sys.modules[framework]
                for name in getter.split("."):
                    found = getattr(found, name)
                yield f"{framework}.{getter}", str(found() if callable(found) else found)

"""What a key asks of this machine beyond a card: packages, compilers, an account on the hub.

The trainers ask for most of it themselves as they are built, which `check` does without weights.
Here is what they find only in a step, or once a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from modelforge.common.hub import look_for_hub, why_offline
from modelforge.config import Config
from modelforge.errors import Problem, RunError

# Compilers that are packages of their own: the module, and how to install it.
_BACKENDS = {
    "tvm": ("tvm", "pip install apache-tvm"),
    "onnxrt": ("onnxruntime", "pip install onnxruntime onnxscript"),
    "openxla": ("torch_xla", "pip install torch_xla"),
    "ipex": ("intel_extension_for_pytorch", "pip install intel-extension-for-pytorch"),
    "tensorrt": ("torch_tensorrt", "pip install torch-tensorrt"),
    "torch_tensorrt": ("torch_tensorrt", "pip install torch-tensorrt"),
    "hpu_backend": ("habana_frameworks", "install Intel Gaudi's software"),
}
_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token that may write"


def refuse_what_is_missing(config: Config) -> None:
    """See, before anything is loaded, that there is what single keys need.

    Raises:
        RunError: With everything that is missing, and how to install it.
    """
    problems = [
        Problem(f"{config.name}: {key}", what, fix)
        for key, what, fix in (*_packages(config), *_compiler(config), *_hub(config))
    ]
    if problems:
        raise RunError(*problems)


def _packages(config: Config) -> Iterator[tuple[str, str, str]]:
    if "tpu_metrics_debug" in str(config.get("debug")) and not find_spec("torch_xla"):
        what = "tpu_metrics_debug needs the package torch_xla, which is not installed"
        yield "debug", what, "remove it, or on a TPU: pip install torch_xla"
    if config.get("use_liger_kernel") and not find_spec("liger_kernel"):
        what = "the package liger-kernel is not installed"
        yield "use_liger_kernel", what, "pip install liger-kernel, or set false"


def _compiler(config: Config) -> Iterator[tuple[str, str, str]]:
    """transformers compiles where any of the three keys is set; the first step then fails."""
    key, named = "torch_compile_backend", config.get("torch_compile_backend")
    if not (config.get("torch_compile") or named or config.get("torch_compile_mode")):
        return
    from torch._dynamo import list_backends

    module, fix = _BACKENDS.get(str(named), ("", ""))
    if module and not find_spec(module):
        what = f"{named} needs the package {module}, which is not installed"
        yield key, what, f"{fix}, or leave it out for inductor"
    elif named and named not in (known := list_backends(exclude_tags=())):
        what = f"'{named}' compiles nothing here"
        yield key, what, f"leave it out for inductor, or set one of {', '.join(known)}"
    elif named in (None, "inductor") and (why := _no_cpp()):
        what = f"the compiler inductor needs one for C++: {why}"
        yield "torch_compile", what, "install g++, or set torch_compile to false"


def _no_cpp() -> str:
    """Why there is no C++ compiler, which inductor calls on a card too; empty where there is."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # it raises what it likes
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


def _hub(config: Config) -> Iterator[tuple[str, str, str]]:
    """What is pushed needs a hub that can be reached, an account, and a name that can be."""
    asked = [key for key in ("push_to_hub", "log_completions_hub_repo") if config.get(key)]
    if not asked:
        return
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    for key in ("hub_model_id", "log_completions_hub_repo"):
        name: Any = config.get(key)
        try:
            if name:
                validate_repo_id(name)
        except HFValidationError as error:
            what = f"{name!r} can be no name on the hub: {' '.join(str(error).split())[:200]}"
            yield key, what, "write it as account/name"
    look_for_hub()
    reason, _ = why_offline()
    if reason:
        yield asked[0], f"needs the hub: {reason}", "run it where there is a network, or remove it"
    elif get_token() is None:
        yield asked[0], "needs an account on the hub, and nobody is logged in", _LOGIN

"""Object code: made of what Numba compiles, and made to run without Numba, by llvmlite alone or as an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llvmlite.binding as llvm

from memcload.encode.image import HAS_IMAGES, make_image


def processor() -> str:
    """Return what code is made for: platform, processor and its features."""
    return " ".join((llvm.get_default_triple(), llvm.get_host_cpu_name(), _features()))


def emit(callbacks: Mapping[str, Any]) -> bytes:
    """Return code with Numba's C callbacks under these names: an image, or an object file where there are no images.

    Raises RuntimeError where it would need anything from outside: then it could not be linked later.
    """
    machine = _machine()
    modules = []
    for name, callback in callbacks.items():
        module = llvm.parse_assembly(callback.inspect_llvm())
        module.get_function(callback.native_name).name = name
        for value in (*module.functions, *module.global_variables):
            if value.name != name and not value.is_declaration:
                value.linkage = "internal"
        modules.append(module)
    whole, *others = modules
    for module in others:
        whole.link_in(module)
    # The kernel raises nothing. When that is seen, the callbacks' calls of Python and Numba go.
    passes = llvm.create_new_module_pass_manager()
    passes.add_ipsccp_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(whole, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3)))
    missing = [
        value.name
        for value in (*whole.functions, *whole.global_variables)
        if value.is_declaration and not value.name.startswith("llvm.")
    ]
    if missing:
        raise RuntimeError(f"the compiled code needs {', '.join(missing)} from outside")
    code: bytes = machine.emit_object(whole)
    return make_image(code, list(callbacks)) if HAS_IMAGES else code


def link(code: bytes, names: Sequence[str]) -> tuple[object, list[int]]:
    """Make an object file run; return what keeps it in memory, and the addresses of the functions.

    Raises RuntimeError where a function is not in it.
    """
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    addresses = [engine.get_function_address(name) for name in names]
    if not all(addresses):
        raise RuntimeError("a function is missing from the compiled code")
    return engine, addresses


def _features() -> str:
    try:
        features: str = llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # not every platform tells
        return ""
    return features


def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=_features(),
        opt=3,
        reloc="pic" if HAS_IMAGES else "default",
        codemodel="small" if HAS_IMAGES else "jitdefault",
        jit=True,
    )

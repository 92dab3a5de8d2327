"""Tensors of the device, and what Python's side of torch tells of it. `present` makes the device be there."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)

_ATEN = torch.ops.aten
_COPIES = (_ATEN.copy_.default, _ATEN._to_copy.default)
# They take indices of the CPU with values of the device.
_INDEXED = (_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default)
_WIDER = ("aten::mm.dtype", "aten::mm.dtype_out", "aten::addmm.dtype", "aten::addmm.dtype_out")


class OnDevice(torch.Tensor):
    """A tensor of the device, whose numbers are in `held`, one of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type[OnDevice], held: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __init__(self, held: torch.Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.held})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # what is read from a file moves to where it belongs

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    # These read a tensor's memory below what is dispatched.

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()


class _Everywhere(TorchDispatchMode):
    """Sees operations without a tensor of the device too: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return CUDA
    if func.name() in ("aten::pin_memory", "aten::_pin_memory"):
        return args[0]
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with _Everywhere():
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    _check_together(func, args, tensors)
    held_args, held_kwargs = tree_map(lambda x: x.held if isinstance(x, OnDevice) else x, (args, kwargs))
    target = kwargs.get("device")
    on_device = any(isinstance(x, OnDevice) for x in tensors)
    if target is not None:
        on_device = torch.device(target).type == "cuda"
        held_kwargs["device"] = torch.device("cpu") if on_device else target
    elif func is _ATEN.copy_.default:
        on_device = isinstance(args[0], OnDevice)
    held_kwargs.pop("pin_memory", None)
    out = _wider(func, held_args, held_kwargs) if func.name() in _WIDER else func(*held_args, **held_kwargs)
    if not on_device:
        return out
    out = tree_map(lambda x: OnDevice(x) if isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if tensors else out


def _check_together(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    """As CUDA does: all on the device, but for numbers, copies and indices."""
    apart = [x for x in tensors if not isinstance(x, OnDevice) and x.dim() > 0]
    if len(apart) in (0, len(tensors)) or func in _COPIES or not any(isinstance(x, OnDevice) for x in tensors):
        return
    if func in _INDEXED and isinstance(args[0], OnDevice):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device: {func} got some on the CPU, of {apart[0].shape}"
    )


def _wider(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """Products of 16-bit matrices that are added up and given in float32: only CUDA has them."""
    *added, a, b = (x for x in args if isinstance(x, torch.Tensor))
    found = kwargs.get("alpha", 1) * (a.float() @ b.float())
    if added:
        found += kwargs.get("beta", 1) * added[0].float()
    return kwargs["out"].copy_(found) if "out" in kwargs else found


def present() -> None:
    """Make the device be there, in this thread and those that are started from now on."""
    # They look for a device while they are imported, and would load its libraries.
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import transformers.core_model_loading as loading
    import trl  # noqa: F401

    state = torch.zeros(16, dtype=torch.uint8)
    told: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "get_device_name": "simulated",
        "get_device_capability": (8, 0),
        "get_device_properties": SimpleNamespace(major=8, minor=0, total_memory=24 * 10**9, multi_processor_count=80),
        "mem_get_info": (23 * 10**9, 24 * 10**9),
        "get_rng_state": state,
        "get_rng_state_all": [state],
    }
    counted = ("max_memory_allocated", "memory_allocated", "memory_reserved", "max_memory_reserved")
    silent = ("init", "_lazy_init", "set_device", "synchronize", "empty_cache", "manual_seed", "manual_seed_all")
    silent += ("set_rng_state", "set_rng_state_all", "reset_peak_memory_stats", "_is_in_bad_fork")
    for name, value in (told | dict.fromkeys(counted, 10**9) | dict.fromkeys(silent)).items():
        for module in (torch.cuda, torch.cuda.random):
            setattr(module, name, lambda *_, value=value, **__: value)

    def read(tensor: Any, device: Any = None, dtype: Any = None) -> Any:
        with no_dispatch():  # safetensors makes a tensor of a file below what is dispatched
            tensor = tensor[...]
        return tensor if device is None and dtype is None else tensor.to(device=device, dtype=dtype)

    loading._materialize_copy = read
    # A module that moves would else put the tensor's outside into its old parameters.
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    run = threading.Thread.run

    def run_there(thread: threading.Thread) -> None:
        with _Everywhere():
            run(thread)

    threading.Thread.run = run_there  # type: ignore[method-assign]
    _Everywhere().__enter__()

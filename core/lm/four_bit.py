"""What 4-bit weights on a CPU need before anything can be learned through them."""

from __future__ import annotations

from typing import Any


def keep_differentiable(base: Any) -> None:
    """Switch off, and undo, what bitsandbytes does to 4-bit weights on a CPU once a model has spoken.

    It packs them for a faster product that knows no gradients: after that training learns nothing, without an error. Undoing rounds the
    weights a little, so this is called before the first word.
    """
    for module in base.modules():
        if getattr(module, "support_avx512bf16_for_cpu", None) is None:
            continue
        module.support_avx512bf16_for_cpu = False
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

            module.weight.data, module.weight.quant_state = _convert_weight_packed_for_cpu_inverse(module.weight.data,
                                                                                                  module.weight.quant_state)

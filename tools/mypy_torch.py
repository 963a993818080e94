"""For mypy: an attribute that a torch module gained at run time is Any, not `Tensor | Module`.

nn.Module.__getattr__ promises no more than that union, so every buffer, configured number and
submodule that is not annotated in its class would need a cast where it is read.
"""

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny

MODULE = "torch.nn.modules.module.Module."


def dynamic(context: AttributeContext) -> Type:
    union = str(context.default_attr_type)
    if union == "torch._tensor.Tensor | torch.nn.modules.module.Module":
        return AnyType(TypeOfAny.special_form)
    return context.default_attr_type


class TorchModules(Plugin):
    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return dynamic if fullname.startswith(MODULE) else None


def plugin(version: str) -> type[Plugin]:
    return TorchModules

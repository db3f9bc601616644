"""What the constructor of an algorithm takes, for who asks: ``inspect.signature`` and an editor."""

from dataclasses import fields
from inspect import Parameter, Signature, signature

from era_rl.core import PolicyOptions


def constructor_signature(cls: type, options: type[PolicyOptions]) -> Signature:
    """Return the arguments of a class: the host's, then what its bases here and the options add.

    The classes before the host hand on what they do not know (``**kwargs``); the host is the first that
    takes no others. An argument of both has the default of here.
    """
    own: dict[str, Parameter] = {}
    host: list[Parameter] = []
    for base in (base for base in cls.__mro__ if "__init__" in vars(base)):
        _, *parameters = signature(base.__init__).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        if Parameter.VAR_KEYWORD not in kinds:
            host = parameters
            break
        named = (p for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
        own = {**{p.name: p for p in named}, **own}
    for field in fields(options):
        own[field.name] = Parameter(
            field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
    first = [p for p in host if p.name not in own]
    return Signature([*first, *own.values()])

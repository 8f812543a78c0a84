"""`NamedTuple` as typing has it, in a quarter of the time that making a class of it takes.

typing's compiles the text of each field's annotation.  With two hundred fields that was a
tenth of what a hook costs that makes a capsule.  To a type checker this is typing's own.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

#: What the class of a tuple has by itself, or only while it is being made.
_NOT_TAKEN = frozenset({"__module__", "__annotations__", "__classcell__"})

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Maker(type):
        """Makes the class of a tuple of what stands in a class below `NamedTuple`."""

        def __new__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, members)
            fields = members.get("__annotations__", {})
            defaults = [members[field] for field in fields if field in members]
            made = namedtuple(name, fields, defaults=defaults, module=members["__module__"])
            made.__annotations__ = fields
            for member in members.keys() - fields.keys() - _NOT_TAKEN:
                setattr(made, member, members[member])
            return made

    class NamedTuple(metaclass=_Maker):
        """What a class of named fields is made of; it never changes."""

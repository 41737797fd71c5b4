"""Plug-ins by the name of their file: the file system is the registry, and there is no list to extend."""

from __future__ import annotations

import importlib
from functools import cached_property
from pkgutil import iter_modules
from typing import Generic, TypeVar, cast

from rlfamily.errors import UserError, nearest

Module = TypeVar("Module")


class Plugins(Generic[Module]):
    """The modules of a folder of this package, looked for once.

    key      the setting that names one, for messages
    what     what one is called
    helpers  files of the folder that are none
    """

    def __init__(self, folder: str, key: str, what: str, helpers: tuple[str, ...] = ()) -> None:
        self.folder, self.key, self.what, self.helpers = folder, key, what, helpers

    @cached_property
    def _found(self) -> list[str]:
        package = importlib.import_module(f"rlfamily.{self.folder}")
        return sorted(found.name for found in iter_modules(package.__path__)
                      if not found.ispkg and found.name not in self.helpers)

    def names(self) -> list[str]:
        """Every one that has a file, sorted."""
        return list(self._found)

    def get(self, name: str) -> Module:
        """The module of that name. Raises UserError naming the nearest when there is none."""
        known = self.names()
        if name not in known:
            raise UserError(f"{self.key}: no {self.what} '{name}' in rlfamily/{self.folder}{nearest(name, known)}")
        return cast(Module, importlib.import_module(f"rlfamily.{self.folder}.{name}"))

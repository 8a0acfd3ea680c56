"""tagcache for Python: a Django cache backend, a dogpile.cache backend, and loads under a lease with redis-py."""

from .cluster import call_all
from .command import ModuleMissing, call, call_async
from .load import get_or_load, get_or_load_async

__all__ = ["ModuleMissing", "call", "call_all", "call_async", "get_or_load", "get_or_load_async"]

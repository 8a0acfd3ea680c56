"""The servers that integrations/with-server starts: one with the module, one without."""

import os

import django.conf
import pytest
import redis

django.conf.settings.configure()


def connect(port: str, **options) -> redis.Redis:
    return redis.Redis(host="127.0.0.1", port=int(os.environ[port]), **options)


@pytest.fixture
def client():
    """A client of an empty server with the module."""
    with connect("TAGCACHE_PORT") as connected:
        connected.flushall()
        yield connected
        # dogpile's tests, which share the server, expect that none of their keys exist.
        connected.flushall()


@pytest.fixture
def bare_client():
    """A client of a server without the module."""
    with connect("TAGCACHE_BARE_PORT") as connected:
        yield connected

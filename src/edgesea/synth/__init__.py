"""The synthetic city: a small urban sound data set that is generated, for demonstrations and tests offline."""

from edgesea.synth.city import City, make_city

__all__ = ["City", "make_city"]

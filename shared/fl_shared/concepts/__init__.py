"""The versioned concept file: names, UCUM units, plausible limits and fixed scaling of table values."""

from fl_shared.concepts.load import Concept, concept, convert, digest, names, scale, unscale

__all__ = ["Concept", "concept", "convert", "digest", "names", "scale", "unscale"]

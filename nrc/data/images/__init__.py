"""Images to numbers: driving frames and faces, decoded once into a cache, or drawn stand-ins."""

from nrc.data.images.carla import Carla
from nrc.data.images.utkface import UTKFace

__all__ = ["Carla", "UTKFace"]

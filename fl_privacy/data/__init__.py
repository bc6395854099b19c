"""Data sets by name, and how they are dealt to clients."""

from fl_privacy.data.base import (
    DATASETS,
    DataSet,
    ImageSet,
    Loader,
    MissingData,
    available,
    data_root,
    folder_of,
    load,
    missing,
    resized,
)
from fl_privacy.data.celeba import celeba
from fl_privacy.data.cifar10 import cifar10
from fl_privacy.data.cifar100 import cifar100
from fl_privacy.data.digits import digits
from fl_privacy.data.emnist import emnist
from fl_privacy.data.fashion_mnist import fashion_mnist
from fl_privacy.data.folder import folder
from fl_privacy.data.glyphs import glyphs
from fl_privacy.data.lfw_faces import lfw_faces
from fl_privacy.data.memory import from_tensors
from fl_privacy.data.mnist import mnist
from fl_privacy.data.orl_faces import orl_faces
from fl_privacy.data.partition import PARTITIONS, Partitioner, client_batch, dirichlet, iid, partition, shards
from fl_privacy.data.retina import retina
from fl_privacy.data.sampling import class_sample
from fl_privacy.data.tiny_imagenet import tiny_imagenet
from fl_privacy.data.utkface import utk_attributes, utkface

__all__ = [
    "DATASETS", "PARTITIONS", "DataSet", "ImageSet", "Loader", "MissingData", "Partitioner", "available",
    "celeba", "cifar10", "cifar100", "class_sample", "client_batch", "data_root", "digits", "dirichlet",
    "emnist", "fashion_mnist", "folder", "folder_of", "from_tensors", "glyphs", "iid", "lfw_faces", "load",
    "missing", "mnist", "orl_faces", "partition", "resized", "retina", "shards", "tiny_imagenet",
    "utk_attributes", "utkface",
]  # fmt: skip

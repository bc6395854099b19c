"""Joint training of a classifier and a decoder: the vicious server's, and with beta_r = 0 its honest twin's."""

from fl_privacy.joint_training.augmentation import augment
from fl_privacy.joint_training.checkpoint import EpochReport, load_pair
from fl_privacy.joint_training.detection import FineTuning, output_entropy, threshold, viciousness
from fl_privacy.joint_training.losses import JointLoss, class_weights
from fl_privacy.joint_training.own_decoder import decodability
from fl_privacy.joint_training.pair import Pair, PairSpec, build_pair, decode, outputs
from fl_privacy.joint_training.scores import Scores, evaluate
from fl_privacy.joint_training.training import JointSettings, Trained, compile_pair, honest, joint_loss, train

__all__ = [
    "EpochReport", "FineTuning", "JointLoss", "JointSettings", "Pair", "PairSpec", "Scores", "Trained", "augment",
    "build_pair", "class_weights", "compile_pair", "decodability", "decode", "evaluate", "honest", "joint_loss",
    "load_pair", "output_entropy", "outputs", "threshold", "train", "viciousness",
]  # fmt: skip

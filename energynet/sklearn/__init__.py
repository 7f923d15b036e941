"""Models with the face of scikit-learn; imported when they are used, for they need scikit-learn."""

from energynet.optional import require

require("sklearn", "sklearn", "energynet.sklearn")

from energynet.sklearn.memory import HopfieldMemory  # noqa: E402
from energynet.sklearn.sparse import DictionaryLearning, SparseCoder  # noqa: E402

__all__ = ["DictionaryLearning", "HopfieldMemory", "SparseCoder"]
from energynet.sklearn.rbm import RBM  # noqa: E402

__all__ = ["RBM", "HopfieldMemory"]

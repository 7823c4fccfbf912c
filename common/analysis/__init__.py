"""Measurements on any network, and what makes repeated ones a result."""

from . import deep, features, gradients, landscape, lesions, predictions, published
from .costs import depth, multiply_adds, parameter_count, peak_bytes, receptive_field, step_seconds
from .gradients import Recorder, activation_gradients, activations
from .parity import parity, relative_difference, source_difference
from .seeds import Seeds, verdict

__all__ = ["Recorder", "Seeds", "activation_gradients", "activations", "deep"]
__all__ += ["depth", "features"]
__all__ += ["gradients", "landscape", "lesions", "multiply_adds", "parameter_count", "parity"]
__all__ += ["peak_bytes", "predictions", "published", "receptive_field", "relative_difference"]
__all__ += ["source_difference", "step_seconds", "verdict"]

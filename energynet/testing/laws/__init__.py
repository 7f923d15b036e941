"""The laws that every energy obeys, in the order in which they are checked."""

from __future__ import annotations

from energynet.testing.laws.batch import (
    energies_are_independent,
    forces_are_independent,
    settling_is_independent,
)
from energynet.testing.laws.conditioning import conditioning_changes_nothing, force_follows_the_parameters
from energynet.testing.laws.force import (
    force_is_the_gradient,
    force_override_is_the_gradient,
    settling_force_is_the_gradient,
)
from energynet.testing.laws.form import energy_has_the_right_shape, energy_is_pure, terms_sum_to_the_energy
from energynet.testing.laws.law import Law
from energynet.testing.laws.persistence import deepcopy_survives, pickle_survives, state_dict_round_trip
from energynet.testing.laws.settling import exact_blocks_descend, fixed_point_is_stationary, settling_descends

LAWS: tuple[Law, ...] = (
    energy_has_the_right_shape,
    energy_is_pure,
    terms_sum_to_the_energy,
    energies_are_independent,
    state_dict_round_trip,
    deepcopy_survives,
    pickle_survives,
    force_override_is_the_gradient,
    force_is_the_gradient,
    conditioning_changes_nothing,
    force_follows_the_parameters,
    forces_are_independent,
    settling_force_is_the_gradient,
    settling_descends,
    exact_blocks_descend,
    fixed_point_is_stationary,
    settling_is_independent,
)
"""What `energynet.testing.check_energy` checks."""

__all__ = ["LAWS", "Law"]

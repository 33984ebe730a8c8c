"""What a Debye model answers with."""

CURVE_TEMPERATURES = tuple(float(t) for t in range(0, 1001, 50))
"""K; what a served Debye model answers with unless asked for others"""

UNITS = {
    "debye_temperature": "K",
    "temperature": "K",
    "heat_capacity": "J/(mol K) per mole of atoms",
    "internal_energy": "J/mol per mole of atoms, zero-point energy included",
    "internal_energy_thermal": "J/mol per mole of atoms, without zero-point energy",
    "entropy": "J/(mol K) per mole of atoms",
    "helmholtz_energy": "J/mol per mole of atoms, zero-point energy included",
}

"""Physical constants (CODATA 2018; exact in the SI of 2019 where no source gives more digits), and units."""

GAS_CONSTANT = 8.31446261815324  # R, J/(mol K)
KELVIN_PER_WAVENUMBER = 1.438776877  # h c / k, K per cm⁻¹

_SCALES = (
    {"eV": 1.0, "meV": 1e-3, "Ha": 27.211386245988, "Ry": 13.605693122994, "kJ/mol": 1 / 96.48533212331,
     "kcal/mol": 4.184 / 96.48533212331},
    {"GPa": 1.0, "MPa": 1e-3, "kbar": 0.1, "Pa": 1e-9},
    {"1/cm": 1.0, "cm-1": 1.0, "cm^-1": 1.0, "THz": 33.35640951981521},
    {"K": 1.0},
)  # fmt: skip
"""units of one quantity, as multiples of its first"""


def conversion(unit: str, wanted: str) -> float | None:
    """The factor from one unit to another; both may be per atom ("meV/atom"). None where it is not known."""
    if unit == wanted:
        return 1.0
    own, other = unit.removesuffix("/atom"), wanted.removesuffix("/atom")
    if (own == unit) != (other == wanted):
        return None
    for scale in _SCALES:
        if own in scale and other in scale:
            return scale[own] / scale[other]
    return None

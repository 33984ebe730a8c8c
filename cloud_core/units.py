"""Physical constants (CODATA 2018; exact in the SI of 2019 where no source gives more digits)."""

GAS_CONSTANT = 8.31446261815324  # R, J/(mol K)
KELVIN_PER_WAVENUMBER = 1.438776877  # h c / k, K per cm⁻¹

"""Arithmetic in which pymatgen's last bit matters: lattices of cell parameters, and the order of elements."""

from functools import lru_cache

import numpy as np

from cloud_core.structures.cell import FloatArray

# Elements by (Pauling electronegativity, symbol), the order in which pymatgen sorts the sites of a CIF.
# Those without an electronegativity (He, Ne, Ar, beyond Lr) have no such order and are left to pymatgen.
BY_ELECTRONEGATIVITY = (
    "Fr Cs K Rb Ba Ra Na Sr Li Ca Ac La Tb Yb Ce Pm Pr Nd Sm Eu Gd Dy Y Ho Er Tm Lu Pu Am Bk Cf Cm Es Fm Hf "
    "Lr Md No Th Mg Zr Np Sc U Pa Ta Ti Mn Be Nb Al Tl V Zn Cr Cd In Ga Fe Co Cu Re Si Tc Ni Ag Sn Hg Po Ge "
    "Bi B Sb Te Mo As P At H Ir Os Pd Rn Ru Pt Rh Pb W Au C Se S Xe I Br Kr N Cl O F"
)
RANKS = {symbol: rank for rank, symbol in enumerate(BY_ELECTRONEGATIVITY.split())}


def lattice_from_parameters(
    a: float, b: float, c: float, alpha: float, beta: float, gamma: float
) -> FloatArray | None:
    """Lattice `[3, 3]` (rows, Å) of lengths in Å and angles in degrees; None where it is not plain.

    The arithmetic is that of pymatgen's `Lattice.from_parameters`, operation by operation.
    """
    angles = _angles(alpha, beta, gamma)
    if angles is None:
        return None
    sin_alpha, cos_alpha, sin_beta, cos_beta, sin_gamma_star, cos_gamma_star = angles
    # The cell is at least this thick for its lengths; pymatgen's limit is 0.01 Å.
    thickness = sin_alpha * sin_beta * sin_gamma_star
    if not (a * thickness > 0.1 and b * thickness > 0.1 and c * thickness > 0.1 and a + b + c < 1e4):
        return None
    return np.array(
        [
            [a * sin_beta, 0.0, a * cos_beta],
            [-b * sin_alpha * cos_gamma_star, b * sin_alpha * sin_gamma_star, b * cos_alpha],
            [0.0, 0.0, c],
        ]
    )


@lru_cache(maxsize=4096)
def _angles(alpha: float, beta: float, gamma: float) -> tuple[float, ...] | None:
    """Sines and cosines of alpha, beta and gamma*, from degrees; None where the angles are not plain."""
    if not (1 < alpha < 179 and 1 < beta < 179 and 1 < gamma < 179):
        return None
    angles = np.radians([alpha, beta, gamma])
    cos_alpha, cos_beta, cos_gamma = np.cos(angles).tolist()
    sin_alpha, sin_beta, _ = np.sin(angles).tolist()
    cos_gamma_star = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    if not -0.99999 < cos_gamma_star < 0.99999:
        return None
    gamma_star = np.arccos(cos_gamma_star)
    return sin_alpha, cos_alpha, sin_beta, cos_beta, float(np.sin(gamma_star)), float(np.cos(gamma_star))

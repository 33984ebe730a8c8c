"""The elements, and what is written in an element's place."""

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb "
    "Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf "
    "Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
SYMBOLS = tuple(_SYMBOLS.split())
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)}
# Deuterium and tritium are hydrogen with a name of their own.
ISOTOPES = {"D": "H", "T": "H"}
# What stands for an empty place, in lower case; vanadium is "V".
VACANCIES = frozenset(("vac", "va", "vacancy", "□", "\u2610", "\u25fb", "\u2b1c"))


def is_vacancy(symbol: str) -> bool:
    """Whether a symbol says that nothing is there: Vac, Va, □, OPTIMADE's vacancy."""
    return symbol.strip().lower() in VACANCIES


def is_element(symbol: str) -> bool:
    """Whether a symbol is an element's, or an isotope's of hydrogen: "Fe", "D"; not "FE", "X", "Fe3+"."""
    return symbol in ATOMIC_NUMBERS or symbol in ISOTOPES

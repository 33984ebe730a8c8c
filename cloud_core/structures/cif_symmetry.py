"""What a CIF block says about its symmetry: the operators that it may mean, the most explicit first."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cloud_core.structures.cif_block import (
    HALL_TAGS,
    MAGNETIC_CENTRING_TAG,
    MAGNETIC_NAME_TAGS,
    MAGNETIC_OPERATION_TAGS,
    MAGNETIC_TRANSFORM_TAGS,
    NAME_TAGS,
    NUMBER_TAGS,
    OPERATION_TAGS,
    SETTING_TAG,
    SYSTEM_TAGS,
    Block,
    is_known,
)
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.space_group import (
    Operators,
    Symbol,
    SymmetryError,
    closure,
    hall_operators,
    number_symbol,
    parse_operators,
    parse_symbol,
)

IDENTITY = parse_operators(("x, y, z",))


@dataclass(frozen=True, eq=False)
class StatedSymmetry:
    """The operators that a block may mean.

    candidates: the possible readings, the preferred first. others: readings to look at where no candidate
    fits the cell and the sites. conflict: in words, what contradicts what ("" where nothing does).
    is_supported: whether at least two statements agree on the first candidate, or none contradicts it.
    is_assumed: nothing at all is said, and the sites are taken as the whole cell.
    """

    statement: str
    candidates: tuple[Operators, ...]
    others: tuple[Operators, ...] = ()
    conflict: str = ""
    is_supported: bool = True
    is_assumed: bool = False


def stated_symmetry(block: Block) -> StatedSymmetry:
    """The symmetry that a block states. Raises StructureError where it is unknown or cannot be read."""
    if magnetic := _magnetic(block):
        return magnetic
    lists, broken = _operator_lists(block)
    hall, unknown_hall = _hall(block)
    symbols, unknown_symbols = _symbols(block)
    numbers = _numbers(block)
    unknown = [*unknown_hall, *unknown_symbols]
    if lists or broken:
        return _from_operators(lists, broken, hall, symbols, numbers)
    if hall is not None:
        conflicts = _conflicts(hall, "the Hall symbol", None, symbols, numbers)
        return _with_conflicts("the Hall symbol", [hall], conflicts, None, symbols, numbers)
    if unknown_symbols or (unknown and not symbols):
        message = f"CIF: no operators, and {unknown[0]} is no space group that is known"
        raise StructureError(Reason.UNKNOWN_SYMMETRY, message)
    if symbols:
        return _from_symbols(symbols, numbers, _code(block))
    if numbers:
        return _from_symbols(numbers, [], _code(block))
    if (system := block.one(*SYSTEM_TAGS)) is not None:
        message = f"CIF: nothing but the crystal system, {system!r}, is said of the symmetry"
        raise StructureError(Reason.UNKNOWN_SYMMETRY, message)
    if block.other_symmetry:
        tag, value = next(iter(block.other_symmetry.items()))
        message = f"CIF: the symmetry is said by {tag} ({shown(value, 30)}) alone, which is not understood"
        raise StructureError(Reason.UNKNOWN_SYMMETRY, message)
    return StatedSymmetry("no symmetry", (IDENTITY,), is_assumed=True)


# -- statements


def _operator_lists(block: Block) -> tuple[list[Operators], str]:
    """The lists of operators (old and new tag), and why one cannot be read."""
    lists: list[Operators] = []
    broken = ""
    for tag in OPERATION_TAGS:
        values = block.values.get(tag, [])
        texts = _lines(values)
        if not texts:
            continue
        if len(texts) < len(values):
            broken = "one is not given"
        try:
            lists.append(parse_operators(texts))
        except SymmetryError as error:
            broken = str(error)
    return lists, broken


def _lines(values: Iterable[str]) -> list[str]:
    """Operators, one each: some programs write all of them into one text field."""
    lines = [line for value in values for line in re.split(r"[;\n]", value)]
    return [line for line in lines if is_known(line)]


def _hall(block: Block) -> tuple[Operators | None, list[str]]:
    text = block.one(*HALL_TAGS)
    if text is None:
        return None, []
    try:
        return hall_operators(text), []
    except SymmetryError:
        return None, [f"the Hall symbol {shown(text)}"]


def _symbols(block: Block) -> tuple[list[Symbol], list[str]]:
    known: list[Symbol] = []
    unknown: list[str] = []
    for tag in NAME_TAGS:
        if (text := block.one(tag)) is None:
            continue
        if symbol := parse_symbol(text):
            known.append(symbol)
        else:
            unknown.append(f"the symbol {shown(text)}")
    return known, unknown


def _numbers(block: Block) -> list[Symbol]:
    found = []
    for tag in NUMBER_TAGS:
        if (text := block.one(tag)) is None:
            continue
        symbol = number_symbol(int(text)) if re.fullmatch(r"\d{1,3}", text) else None
        if symbol is None:
            raise StructureError(Reason.UNKNOWN_SYMMETRY, f"CIF: space group number {shown(text, 20)}")
        found.append(symbol)
    return found


def _code(block: Block) -> str:
    return (block.one(SETTING_TAG) or "").strip().lower()


# -- what they mean together


def _from_operators(
    lists: list[Operators], broken: str, hall: Operators | None, symbols: list[Symbol], numbers: list[Symbol]
) -> StatedSymmetry:
    conflicts = [f"of the operators {broken}"] if broken else []
    candidates = []
    for operators in lists:
        if operators.is_group:
            candidates.append(operators)
            continue
        conflicts.append("the operators form no group")
        try:
            candidates.append(closure(operators))
        except SymmetryError:
            continue
    if candidates:
        if any(operators.codes != candidates[0].codes for operators in candidates):
            conflicts.append("the two lists of operators differ")
        conflicts += _conflicts(candidates[0], "the operators", hall, symbols, numbers)
    return _with_conflicts("the operators", candidates, conflicts, hall, symbols, numbers)


def _conflicts(
    operators: Operators, name: str, hall: Operators | None, symbols: list[Symbol], numbers: list[Symbol]
) -> list[str]:
    """Which statements the operators contradict, in words."""
    found = []
    if hall is not None and hall.codes != operators.codes:
        found.append(f"{name} are not those of the Hall symbol")
    for symbol in (*symbols, *numbers):
        if not _agrees(operators, symbol):
            found.append(f"{name}: space group {operators.number}, the symbol or number {symbol.text!r}")
    return found


def _agrees(operators: Operators, symbol: Symbol) -> bool:
    """Whether operators are those of a symbol, in any origin and cell choice that it leaves open."""
    if operators.number != symbol.number:
        return False
    named = symbol.settings
    if symbol.is_exact:
        return any(operators.codes == setting.operators.codes for setting in named)
    if symbol.number <= 2:  # the centring alone can differ
        return len(operators) == len(named[0].operators)
    if symbol.is_open:
        return True
    return any(operators.shape == setting.operators.shape for setting in named)


def _with_conflicts(
    statement: str,
    candidates: list[Operators],
    conflicts: list[str],
    hall: Operators | None,
    symbols: list[Symbol],
    numbers: list[Symbol],
) -> StatedSymmetry:
    if not conflicts:
        return StatedSymmetry(statement, (candidates[0],))
    votes = [*candidates, *([hall] if hall is not None else [])]
    others: list[Operators] = []
    for symbol in (*symbols, *numbers):
        if any(
            operators.codes == setting.operators.codes for operators in votes for setting in symbol.settings
        ):
            votes += [
                s.operators for s in symbol.settings if any(s.operators.codes == o.codes for o in votes)
            ]
        elif not any(_agrees(operators, symbol) for operators in votes):
            votes += [setting.operators for setting in symbol.settings]
            others += [setting.operators for setting in symbol.others]
    distinct = _distinct(votes)
    if not distinct:
        raise StructureError(Reason.UNKNOWN_SYMMETRY, f"CIF: {'; '.join(conflicts)}")
    supported = len(distinct) > 1 or len(votes) > 1
    return StatedSymmetry(
        statement, distinct, _distinct(others), "; ".join(dict.fromkeys(conflicts)), supported
    )


def _from_symbols(symbols: list[Symbol], numbers: list[Symbol], code: str) -> StatedSymmetry:
    first = symbols[0]
    name = "number" if first.text.isdigit() else "symbol"
    statement = f"the {name} {first.text!r}"
    settings = [
        setting
        for setting in first.settings
        if all(
            any(setting.operators.codes == s.operators.codes for s in symbol.settings)
            for symbol in symbols[1:]
            if symbol.number == first.number
        )
    ]
    conflicts = [
        f"{statement} and the symbol or number {symbol.text!r}"
        for symbol in (*symbols[1:], *numbers)
        if symbol.number != first.number
    ]
    if not settings:
        conflicts.append(f"{statement} and the symbol {symbols[1].text!r}")
        settings = [setting for symbol in symbols for setting in symbol.settings]
    others = list(first.others)
    if code:
        chosen = [s for s in (*settings, *others) if code in (s.choice.lower(), s.qualifier.lower())]
        settings, others = (chosen, []) if chosen else (settings, others)
    candidates = [setting.operators for setting in settings]
    if conflicts:
        contrary = [s for s in (*symbols[1:], *numbers) if s.number != first.number]
        candidates += [setting.operators for symbol in contrary for setting in symbol.settings]
    return StatedSymmetry(
        statement,
        _distinct(candidates),
        _distinct([setting.operators for setting in others]),
        "; ".join(conflicts),
    )


def _distinct(operators: Iterable[Operators]) -> tuple[Operators, ...]:
    found: dict[frozenset[int], Operators] = {}
    for group in operators:
        found.setdefault(group.codes, group)
    return tuple(found.values())


# -- magnetic symmetry


def _magnetic(block: Block) -> StatedSymmetry | None:
    """The operators of a magnetic CIF, time reversal left aside: each with each centring."""
    texts = _lines(block.values.get(MAGNETIC_OPERATION_TAGS[0], ()))
    name = block.one(*MAGNETIC_NAME_TAGS)
    if not texts and name is None:
        return None
    try:
        if not texts:
            return StatedSymmetry("the magnetic group", (_named_magnetic(block, str(name)),))
        centrings = _lines(block.values.get(MAGNETIC_CENTRING_TAG, ())) or ["x,y,z"]
        operators = parse_operators([_without_time(text) for text in texts])
        shifts = parse_operators([_without_time(text) for text in centrings])
        group = Operators(
            operators.rotations.repeat(len(shifts), axis=0),
            (operators.translations[:, None] + shifts.translations).reshape(-1, 3) % 1.0,
        )
    except SymmetryError as error:
        raise StructureError(Reason.UNKNOWN_SYMMETRY, f"CIF: magnetic operators: {error}") from error
    if group.is_group:
        return StatedSymmetry("the magnetic operators", (group,))
    conflict = "the magnetic operators form no group"
    try:
        return StatedSymmetry("the magnetic operators", (closure(group),), (), conflict, is_supported=False)
    except SymmetryError as error:
        raise StructureError(Reason.CONTRADICTORY_SYMMETRY, f"CIF: {conflict}") from error


def _without_time(text: str) -> str:
    """ "x,y,z,-1" without its time reversal."""
    parts = text.split(",")
    return (
        ",".join(parts[:3]) if len(parts) == 4 and parts[3].strip(" '\"").lstrip("+-m") in ("1", "") else text
    )


def _named_magnetic(block: Block, name: str) -> Operators:
    """The operators of a magnetic group that is named in BNS notation, by pymatgen's table."""
    from pymatgen.symmetry.maggroups import MagneticSpaceGroup

    label = [int(part) for part in name.split(".")] if re.fullmatch(r"\d+\.\d+", name) else name
    transform = block.one(*MAGNETIC_TRANSFORM_TAGS) or "a,b,c;0,0,0"
    try:
        group = MagneticSpaceGroup(label, transform)
        texts = [operator.as_xyzt_str() for operator in group.symmetry_ops]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SymmetryError(f"no magnetic group {name!r}") from error
    return parse_operators([_without_time(text) for text in texts])

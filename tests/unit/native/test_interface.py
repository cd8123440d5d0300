"""The C header, the functions that Rust exports and those its examples declare are the same.

Cython compiles against the header, so the C compiler compares `_kernels.pyx` with it.
"""

import re
from pathlib import Path

import pytest

CRATE = Path(__file__).parents[3] / "native"
HEADER = (CRATE / "include" / "acie_kernels.h").read_text()
EXPORTS = "\n".join(path.read_text() for path in sorted((CRATE / "src").rglob("*.rs")))
DECLARATIONS = (CRATE / "examples" / "constant_time" / "interface.rs").read_text()

# The C name of a Rust type.
C_NAMES = {
    "usize": "size_t",
    "c_int": "int",
    "c_char": "char",
    "c_void": "void",
    "f32": "float",
    "f64": "double",
    "CipherArray": "acie_array",
    "PublicKey": "acie_public",
    "PrivateKey": "acie_private",
    "Streebog": "acie_streebog",
    "Dag": "acie_dag",
    "TileStats": "acie_tile_stats",
    "i64": "int64_t",
    "u8": "uint8_t",
    "u32": "uint32_t",
    "u64": "uint64_t",
}

# A function's result and arguments, each like `uint64_t const*` for a pointer to constants.
Signatures = dict[str, list[str]]


def c_type(text: str) -> str:
    pointees = text.split("*")[:-1] or [text]
    name = re.sub(r"\bconst\b", "", pointees[0]).strip()
    stars = [" const*" if "const" in pointee else "*" for pointee in pointees]
    return name + "".join(stars) * ("*" in text)


def c_signatures(text: str) -> Signatures:
    text = re.sub(r"/\*.*?\*/|^#.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = {}
    for result, name, arguments in re.findall(r"([\w\s*]+?)(acie_\w+)\(([^)]*)\);", text):
        types = [re.sub(r"\w+$", "", argument.strip()) for argument in arguments.split(",")]
        found[name] = [c_type(result), *([] if arguments == "void" else map(c_type, types))]
    return found


def rust_type(text: str) -> str:
    levels = []
    while match := re.match(r"(\*const|\*mut|&mut|&)\s*(?=\S)", text):
        levels.append("*" if "mut" in match[1] else " const*")
        text = text[match.end() :]
    return C_NAMES[text] + "".join(reversed(levels))


def rust_signatures(text: str) -> Signatures:
    for template in re.finditer(r"macro_rules! (\w+) \{.*?^\}", text, re.DOTALL | re.MULTILINE):
        for name, key in re.findall(rf"^{template[1]}!\(\s*(\w+),\s*(\w+)", text, re.MULTILINE):
            text += template[0].replace("$name", name).replace("$key", key)
    pattern = r'\b(?:pub|extern "C") fn (acie_\w+)\(([^)]*)\)(?: -> ([^{;]+))?\s*[{;]'
    return {
        name: [
            rust_type(result.strip()) if result else "void",
            *(rust_type(a.split(":")[1].strip()) for a in arguments.split(",") if a.strip()),
        ]
        for name, arguments, result in re.findall(pattern, text)
    }


def test_rust_exports_what_the_header_declares() -> None:
    declared = c_signatures(HEADER)
    assert set(declared) == set(re.findall(r"\b(acie_\w+)\(", HEADER))
    assert rust_signatures(EXPORTS) == declared


def test_examples_declare_what_the_header_declares() -> None:
    header, declared = c_signatures(HEADER), rust_signatures(DECLARATIONS)
    assert len(declared) == DECLARATIONS.count("fn acie_") > 0
    assert declared == {name: header[name] for name in declared}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("acie_dag_order", "int64_t *out", "int32_t *out"),
        ("acie_dag_order", "const acie_dag *", "acie_dag *"),
        ("acie_dag_order", "int64_t *out", "int64_t *out, size_t count"),
        ("acie_dag_order", "int acie", "void acie"),
        ("acie_array_concatenate", "*const *arrays", "**arrays"),
        ("acie_private_decrypt", "size_t rows,", ""),
        ("acie_public_free", "_free", "_release"),
    ],
)
def test_any_difference_shows(name: str, old: str, new: str) -> None:
    line = re.search(rf"^\w+ {name}\([^;]*;", HEADER, re.MULTILINE)
    assert line is not None
    assert old in line[0]
    doctored = HEADER.replace(line[0], line[0].replace(old, new))
    assert rust_signatures(EXPORTS) != c_signatures(doctored)

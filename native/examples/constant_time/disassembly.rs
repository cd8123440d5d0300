//! Which registers an instruction's memory access or division depends on, from `objdump`.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::process::Command;

/// A register's place in the context that the kernel gives to signal handlers (`gregs` in
/// sys/ucontext.h).
type Place = u8;

const NONE: Place = u8::MAX;
const PLACES: [(&str, Place); 16] = [
    ("8", 0),
    ("9", 1),
    ("10", 2),
    ("11", 3),
    ("12", 4),
    ("13", 5),
    ("14", 6),
    ("15", 7),
    ("di", RDI),
    ("si", RSI),
    ("bp", 10),
    ("bx", 11),
    ("dx", RDX),
    ("ax", RAX),
    ("cx", RCX),
    ("sp", RSP),
];
const RDI: Place = 8;
const RSI: Place = 9;
const RDX: Place = 12;
const RAX: Place = 13;
const RCX: Place = 14;
const RSP: Place = 15;
pub const RIP: usize = 16;

/// Registers whose values show outside: as an address, or in the time of a division. With
/// `scale`, the second one counts so many times.
#[derive(Clone, Copy)]
pub struct Shown {
    registers: [Place; 3],
    scale: u8,
    known: bool,
}

impl Shown {
    const NOTHING: Self = Self { registers: [NONE; 3], scale: 0, known: true };
    const UNKNOWN: Self = Self { known: false, ..Self::NOTHING };

    /// One number for what shows, or `None` if the instruction is not understood.
    pub fn value(self, registers: &[u64; 23]) -> Option<u64> {
        let at = |place| if place == NONE { 0 } else { registers[usize::from(place)] };
        let [first, second, third] = self.registers.map(at);
        let shown = match self.scale {
            0 => [first, second, third].iter().fold(0u64, |sum, &x| {
                (sum ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
            }),
            scale => first.wrapping_add(second.wrapping_mul(scale.into())),
        };
        self.known.then_some(shown.wrapping_add(registers[usize::from(RSP)] << 20))
    }

    fn parse(text: &str) -> Self {
        let mnemonic = text.split_whitespace().next().unwrap_or("");
        let is = |names: &[&str]| names.iter().any(|name| mnemonic.starts_with(name));
        if text.contains("es:[rdi]") || text.contains("ds:[rsi]") {
            return Self { registers: [RDI, RSI, RCX], ..Self::NOTHING };
        }
        if is(&["div", "idiv"]) {
            let operand = text.rsplit(' ').next().map_or(NONE, place);
            return Self { registers: [RAX, RDX, operand], ..Self::NOTHING };
        }
        if is(&["(bad)", "xlat"]) {
            return Self::UNKNOWN;
        }
        let Some((_, rest)) = text.split_once('[') else { return Self::NOTHING };
        if is(&["lea", "nop", "data16", "cs"]) {
            return Self::NOTHING;
        }
        // How much these touch depends on a mask.
        if is(&["vpcompress", "vpexpand", "vcompress", "vexpand"]) {
            return Self::UNKNOWN;
        }
        Self::parse_address(rest.split(']').next().unwrap_or(""))
    }

    fn parse_address(address: &str) -> Self {
        let mut registers = [NONE; 3];
        let mut scale = 1;
        for term in address.split(['+', '-']) {
            let (name, factor) = term.split_once('*').unwrap_or((term, ""));
            if name == "rip" || name == "riz" || name.starts_with("0x") {
                continue;
            }
            // A vector of addresses is none of the sixteen.
            if place(name) == NONE {
                return Self::UNKNOWN;
            }
            if factor.is_empty() && registers[0] == NONE {
                registers[0] = place(name);
            } else {
                registers[1] = place(name);
                scale = factor.parse().unwrap_or(1);
            }
        }
        Self { registers, scale, known: true }
    }
}

fn place(name: &str) -> Place {
    let stem = name.trim_start_matches(['r', 'e']).trim_end_matches(['d', 'w', 'b']);
    let found = PLACES.iter().find(|(known, _)| *known == stem);
    let general = name.starts_with(['r', 'e']);
    found.filter(|_| general).map_or(NONE, |&(_, place)| place)
}

/// The instructions of one loaded file.
pub struct Code {
    start: u64,
    shown: Vec<Shown>,
    functions: BTreeMap<u64, String>,
}

impl Code {
    /// Every file of code in this process.
    pub fn loaded() -> Vec<Self> {
        let mut files: Vec<(String, u64)> = Vec::new();
        // SAFETY: the callback takes the list for what it is.
        unsafe { dl_iterate_phdr(note_file, (&raw mut files).cast()) };
        files.iter().map(|(path, bias)| Self::read(path, *bias)).collect()
    }

    fn read(path: &str, bias: u64) -> Self {
        let output = Command::new("objdump")
            .args(["-d", "--no-show-raw-insn", "-w", "-M", "intel", path])
            .output()
            .expect("objdump, of binutils, is needed");
        assert!(output.status.success(), "objdump cannot read {path}");
        let mut instructions = BTreeMap::new();
        let mut functions = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some((address, text)) = line.split_once(':') else { continue };
            if let Ok(address) = u64::from_str_radix(address.trim(), 16) {
                instructions.insert(bias + address, Shown::parse(text.trim()));
            } else if let Some((address, name)) = address.split_once(" <")
                && let Ok(address) = u64::from_str_radix(address, 16)
            {
                functions.insert(bias + address, name.trim_end_matches('>').to_owned());
            }
        }
        let start = instructions.first_key_value().map_or(0, |(&address, _)| address);
        let end = instructions.last_key_value().map_or(0, |(&address, _)| address + 1);
        let mut shown = vec![Shown::UNKNOWN; (end - start) as usize];
        for (address, instruction) in instructions {
            shown[(address - start) as usize] = instruction;
        }
        Self { start, shown, functions }
    }

    /// What the instruction at an address shows.
    pub fn at(&self, address: u64) -> Option<Shown> {
        self.shown.get(address.checked_sub(self.start)? as usize).copied()
    }

    /// The function around an address.
    pub fn function(&self, address: u64) -> Option<String> {
        self.at(address)?;
        let (start, name) = self.functions.range(..=address).next_back()?;
        Some(format!("{name}+{:#x}", address - start))
    }
}

#[repr(C)]
struct LoadedFile {
    bias: u64,
    name: *const c_char,
}

unsafe extern "C" {
    fn dl_iterate_phdr(
        callback: unsafe extern "C" fn(*const LoadedFile, usize, *mut c_void) -> c_int,
        data: *mut c_void,
    ) -> c_int;
}

unsafe extern "C" fn note_file(file: *const LoadedFile, _: usize, files: *mut c_void) -> c_int {
    // SAFETY: the loader passes its record, and `Code::loaded` the list.
    let (file, files) = unsafe { (&*file, &mut *files.cast::<Vec<(String, u64)>>()) };
    // SAFETY: the name is a C string.
    let name = unsafe { CStr::from_ptr(file.name) }.to_string_lossy();
    match &*name {
        "" => {
            let own = std::env::current_exe().expect("a program knows its path");
            files.push((own.to_string_lossy().into_owned(), file.bias));
        }
        // The kernel's own page, which nothing here calls.
        name if name.starts_with("linux-vdso") => {}
        name => files.push((name.to_owned(), file.bias)),
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(text: &str) -> ([Place; 3], u8, bool) {
        let Shown { registers, scale, known } = Shown::parse(text);
        (registers, scale, known)
    }

    #[test]
    fn addresses_of_instructions() {
        assert_eq!(registers("mov    rax,QWORD PTR [r13+rcx*8-0x10]"), ([5, RCX, NONE], 8, true));
        assert_eq!(registers("mov    QWORD PTR [rdi],r8d"), ([RDI, NONE, NONE], 1, true));
        assert_eq!(registers("add    rax,QWORD PTR [rip+0x2f]"), ([NONE; 3], 1, true));
        assert_eq!(registers("lea    rax,[rbx+rcx*4]"), ([NONE; 3], 0, true));
        assert_eq!(registers("mulx   rax,rcx,rdx"), ([NONE; 3], 0, true));
        assert_eq!(registers("div    rcx"), ([RAX, RDX, RCX], 0, true));
        let string = "rep movs BYTE PTR es:[rdi],BYTE PTR ds:[rsi]";
        assert_eq!(registers(string), ([RDI, RSI, RCX], 0, true));
        assert!(!registers("vpgatherqq zmm1{k1},QWORD PTR [rax+zmm2*8]").2);
    }
}

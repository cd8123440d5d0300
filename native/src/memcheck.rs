//! Requests to Valgrind's Memcheck, which tracks secrets when told that they are undefined
//! (A. Langley, ctgrind, 2010): it then reports every branch and address that depends on one.
//! Outside Valgrind they do nothing.

use std::arch::asm;

const MAKE_MEM_UNDEFINED: usize = 0x4d43_0001;
const MAKE_MEM_DEFINED: usize = 0x4d43_0002;
const RUNNING_ON_VALGRIND: usize = 0x1001;
const COUNT_ERRORS: usize = 0x1201;

/// The instruction sequence that valgrind.h defines for x86-64.
fn request(code: usize, first: usize, second: usize) -> usize {
    let arguments = [code, first, second, 0, 0, 0];
    let mut result = 0;
    // SAFETY: four rotations by 128 bits together and an exchange of a register with itself.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") arguments.as_ptr(),
            inout("rdx") result,
        );
    }
    result
}

/// Treat memory as secret.
pub fn hide<T>(data: &[T]) {
    request(MAKE_MEM_UNDEFINED, data.as_ptr() as usize, size_of_val(data));
}

/// Treat memory as public from here on.
pub fn reveal<T>(data: &[T]) {
    request(MAKE_MEM_DEFINED, data.as_ptr() as usize, size_of_val(data));
}

/// A public copy of a value.
pub fn revealed(value: u64) -> u64 {
    reveal(std::slice::from_ref(&value));
    // SAFETY: the address of a local. Volatile, because its shadow has changed unseen.
    unsafe { std::ptr::read_volatile(&raw const value) }
}

pub fn is_running() -> bool {
    request(RUNNING_ON_VALGRIND, 0, 0) != 0
}

/// Errors reported so far, repeated ones included.
pub fn error_count() -> usize {
    request(COUNT_ERRORS, 0, 0)
}

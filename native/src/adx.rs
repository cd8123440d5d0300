//! Row kernels for x86-64 with BMI2, ADX and AVX2: assembly from ../asm.

use crate::isa::{self, Kernels};
use crate::portable::select_rows;
use std::arch::global_asm;

global_asm!(include_str!("../asm/mul_acc_adx.S"));
global_asm!(include_str!("../asm/redc_adx.S"));

unsafe extern "sysv64" {
    fn acie_mul_acc_adx(
        acc: *mut u64,
        x: *const u64,
        x_limbs: usize,
        y: *const u64,
        y_limbs: usize,
    ) -> u64;
    fn acie_redc_adx(acc: *mut u64, n: *const u64, limbs: usize, neg_inv: u64, m: *mut u64) -> u64;
}

pub static KERNELS: Kernels = isa::table(mul_acc, redc, select);

unsafe fn mul_acc(
    acc: *mut u64,
    x: *const u64,
    x_limbs: usize,
    y: *const u64,
    y_limbs: usize,
) -> u64 {
    // SAFETY: same contract; `Isa::is_available` checked the instructions.
    unsafe { acie_mul_acc_adx(acc, x, x_limbs, y, y_limbs) }
}

unsafe fn redc(acc: *mut u64, n: *const u64, limbs: usize, neg_inv: u64, m: *mut u64) -> u64 {
    // SAFETY: same contract; `Isa::is_available` checked the instructions.
    unsafe { acie_redc_adx(acc, n, limbs, neg_inv, m) }
}

#[target_feature(enable = "avx2")]
unsafe fn select_avx2(out: *mut u64, table: *const u64, rows: usize, width: usize, index: usize) {
    // SAFETY: same contract.
    unsafe { select_rows(out, table, rows, width, index) }
}

unsafe fn select(out: *mut u64, table: *const u64, rows: usize, width: usize, index: usize) {
    // SAFETY: same contract; `Isa::is_available` checked AVX2.
    unsafe { select_avx2(out, table, rows, width, index) }
}

//! Sets `cfg(x86_paths)`, the one condition for code that exists only on x86-64 Linux.

use std::env;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(x86_paths)");
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable, value| env::var(variable).is_ok_and(|found| found == value);
    let portable_only = env::var_os("CARGO_FEATURE_PORTABLE_ONLY").is_some();
    if is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_OS", "linux") && !portable_only
    {
        println!("cargo::rustc-cfg=x86_paths");
    }
}

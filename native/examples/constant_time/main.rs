//! Shows that secrets decide no branch, no address and no division: `constant_time memcheck`
//! under Valgrind, `constant_time trace` and `constant_time timing` on the processor itself.
//!
//! Each check also runs operations that do leak, and fails if it does not notice them.
//!
//! Belongs here: the checks, and the secrets they try. Does not belong here: what must be
//! constant-time, which `operations` lists; correct results, which the other tests compare.

mod disassembly;
mod interface;
mod keys;
#[cfg(feature = "memcheck")]
mod memcheck;
mod operations;
mod secrets;
mod timing;
mod trace;

use std::process::ExitCode;

fn main() -> ExitCode {
    interface::use_one_core();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let passed = match arguments[..] {
        #[cfg(feature = "memcheck")]
        ["memcheck"] => memcheck::check(),
        ["trace", path] => trace::check(path),
        ["timing", path, samples] => timing::check(path, samples.parse().unwrap_or(0)),
        _ => {
            eprintln!("usage: constant_time memcheck | trace PATH | timing PATH SAMPLES");
            false
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Print one line and tell whether the finding is the wanted one.
fn report(check: &str, path: &str, operation: &operations::Operation, leak: Option<&str>) -> bool {
    let right = leak.is_some() == operation.leaks;
    let verdict = if right { "ok" } else { "WRONG" };
    let expected = if operation.leaks { "leaks" } else { "constant" };
    let found = leak.unwrap_or("nothing");
    println!("{verdict:5} {check} {path} {} ({expected}): {found}", operation.name);
    right
}

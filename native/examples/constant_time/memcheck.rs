//! Runs each operation with its secrets hidden from Memcheck, key set-up included.

use crate::operations::{self, is_available};
use crate::report;
use crate::secrets::{Class, Secrets};
use acie_kernels::memcheck::{error_count, hide, is_running};

pub fn check() -> bool {
    if !is_running() {
        eprintln!("run this under `valgrind --tool=memcheck`");
        return false;
    }
    let mut passed = true;
    // Valgrind has no AVX-512.
    for path in ["portable", "adx"].into_iter().filter(|path| is_available(path)) {
        for operation in &operations::ALL {
            let secrets = Secrets::new(Class::Random(5));
            secrets.parts().into_iter().for_each(hide);
            let before = error_count();
            operation.prepare(path, &secrets)();
            let errors = error_count() - before;
            let found = format!("{errors} reports");
            passed &= report("memcheck", path, operation, (errors > 0).then_some(found.as_str()));
        }
    }
    passed
}

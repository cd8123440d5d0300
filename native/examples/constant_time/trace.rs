//! Runs each operation with different secrets, instruction by instruction, and compares.
//!
//! The processor's trap flag stops it after every instruction; the trace holds the address of
//! each instruction and what it shows of registers: operand addresses, and what it divides.
//! Secrets that take no part in control flow and addresses leave equal traces. This sees what the
//! processor runs, vectors included, but only for the secrets tried (S. Weiser et al., DATA:
//! Differential Address Trace Analysis, USENIX Security 2018).

use crate::disassembly::{Code, RIP};
use crate::operations::{self, Operation, is_available};
use crate::report;
use crate::secrets::{Class, Secrets};
use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

const CLASSES: [Class; 3] = [Class::Sparse, Class::Dense, Class::Random(2)];
const MOST_STEPS: usize = 1 << 22;
const NOT_UNDERSTOOD: u64 = u64::MAX;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Step {
    instruction: u64,
    shown: u64,
}

/// What the trap's handler writes, in memory shared with the parent process.
#[repr(C)]
struct Trace {
    code: *const Vec<Code>,
    length: usize,
    steps: [Step; MOST_STEPS],
}

pub fn check(path: &str) -> bool {
    if !is_available(path) {
        eprintln!("this processor has no {path}");
        return false;
    }
    let code = Code::loaded();
    let traces = [Trace::shared(&code), Trace::shared(&code)];
    let mut passed = true;
    for operation in &operations::ALL {
        let leak = first_difference(operation, path, &traces).map(|step| match step {
            None => "the number of instructions".to_owned(),
            Some(step) => describe(&code, step),
        });
        passed &= report("trace", path, operation, leak.as_deref());
    }
    passed
}

fn describe(code: &[Code], step: Step) -> String {
    let place = code.iter().find_map(|code| code.function(step.instruction));
    let place = place.unwrap_or_else(|| format!("{:#x}", step.instruction));
    let what = if step.shown == NOT_UNDERSTOOD { "not understood" } else { "differs" };
    format!("{what} at {place}")
}

/// Where the runs part: `Some(None)` if one ends before the other.
fn first_difference(
    operation: &Operation,
    path: &str,
    [first, other]: &[*mut Trace; 2],
) -> Option<Option<Step>> {
    let classes = CLASSES.map(Secrets::new);
    // One place for all, so that addresses agree; nothing is allocated between the runs.
    let mut secrets = Secrets::new(Class::Sparse);
    for (run, class) in classes.iter().enumerate() {
        secrets.copy_from(class);
        let trace = if run == 0 { *first } else { *other };
        record(trace, operation, path, &secrets);
        // SAFETY: the children that wrote the traces have ended.
        let (first, trace) = unsafe { (&**first, &*trace) };
        let steps = &trace.steps[..trace.length];
        if let Some(step) = steps.iter().find(|step| step.shown == NOT_UNDERSTOOD) {
            return Some(Some(*step));
        }
        let pairs = first.steps[..first.length].iter().zip(steps);
        if let Some((_, step)) = pairs.into_iter().find(|(expected, step)| expected != step) {
            return Some(Some(*step));
        }
        if first.length != trace.length {
            return Some(None);
        }
    }
    None
}

/// Run the operation in a copy of this process, so that every run starts from the same memory.
fn record(trace: *mut Trace, operation: &Operation, path: &str, secrets: &Secrets) {
    // SAFETY: the process has one thread; the child ends with `_exit`.
    unsafe {
        (*trace).length = 0;
        let child = fork();
        assert!(child >= 0, "cannot start a process");
        if child == 0 {
            let mut work = operation.prepare(path, secrets);
            TRACE.store(trace, Ordering::Relaxed);
            stop_at_every_instruction();
            work();
            run_freely();
            _exit(0);
        }
        let mut status = 0;
        assert_eq!(waitpid(child, &mut status, 0), child);
        assert_eq!(status, 0, "the traced process failed, or took too many steps");
        assert!((*trace).length > 0, "nothing was traced");
    }
}

static TRACE: AtomicPtr<Trace> = AtomicPtr::new(std::ptr::null_mut());

impl Trace {
    fn shared(code: &Vec<Code>) -> *mut Self {
        const READ_WRITE: c_int = 3;
        const SHARED_ANONYMOUS_UNRESERVED: c_int = 0x4021;
        let flags = SHARED_ANONYMOUS_UNRESERVED;
        // SAFETY: a fresh mapping of zeros, which are a valid `Trace`.
        let trace: *mut Self = unsafe {
            mmap(std::ptr::null_mut(), size_of::<Self>(), READ_WRITE, flags, -1, 0).cast()
        };
        assert!(trace as isize != -1, "no memory for the trace");
        // SAFETY: see above.
        unsafe { (*trace).code = code };
        trace
    }
}

/// Handles the trap: `context` is what sys/ucontext.h calls `ucontext_t`.
unsafe extern "C" fn on_trap(_: c_int, _: *const c_void, context: *const c_void) {
    const REGISTERS_AT: usize = 40;
    // SAFETY: the kernel passes a context; the trace was stored before traps began, and the code
    // outlives the check.
    unsafe {
        let registers = &*context.byte_add(REGISTERS_AT).cast::<[u64; 23]>();
        let trace = &mut *TRACE.load(Ordering::Relaxed);
        let instruction = registers[RIP];
        let shown = (*trace.code).iter().find_map(|code| code.at(instruction));
        let shown = shown.and_then(|shown| shown.value(registers)).unwrap_or(NOT_UNDERSTOOD);
        if trace.length == MOST_STEPS {
            _exit(1);
        }
        trace.steps[trace.length] = Step { instruction, shown };
        trace.length += 1;
    }
}

#[repr(C)]
struct SignalAction {
    handler: unsafe extern "C" fn(c_int, *const c_void, *const c_void),
    mask: [u64; 16],
    flags: c_int,
    restorer: usize,
}

fn stop_at_every_instruction() {
    const SIGTRAP: c_int = 5;
    const WITH_CONTEXT: c_int = 4;
    let action = SignalAction { handler: on_trap, mask: [0; 16], flags: WITH_CONTEXT, restorer: 0 };
    // SAFETY: the structure is that of the C library on x86-64; the flag is the trap flag.
    unsafe {
        assert_eq!(sigaction(SIGTRAP, &action, std::ptr::null_mut()), 0);
        asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq");
    }
}

fn run_freely() {
    // SAFETY: clears the trap flag.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
}

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
    fn sigaction(signal: c_int, action: *const SignalAction, old: *mut SignalAction) -> c_int;
    fn mmap(
        address: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: i64,
    ) -> *mut c_void;
}

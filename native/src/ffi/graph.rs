//! Causal graphs.

use super::{guarded, input, output};
use crate::dag::{Dag, Direction, Limits};
use crate::front_door::{front_door, is_front_door};
use crate::parallel::for_row_blocks;
use crate::separation::{back_door, check_disjoint, is_back_door, separated};
use std::ffi::c_int;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_dag_new(
    nodes: usize,
    edges: *const i64,
    count: usize,
    cycle: *mut i64,
    out: *mut *mut Dag,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        unsafe {
            let edges = input(edges.cast::<[i64; 2]>(), count);
            let dag = Dag::new(nodes, edges, output(cycle, nodes))?;
            *out = Box::into_raw(Box::new(dag));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_dag_free(dag: *mut Dag) {
    // SAFETY: the address came from `acie_dag_new` and is freed once.
    drop(unsafe { Box::from_raw(dag) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_dag_order(dag: &Dag, out: *mut i64) -> c_int {
    guarded(&mut 0, || {
        // SAFETY: forwarded contract.
        let out = unsafe { output(out, dag.nodes()) };
        for (out, &v) in out.iter_mut().zip(dag.order()) {
            *out = i64::from(v);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_dag_reach(
    dag: &Dag,
    down: c_int,
    from: *const i64,
    count: usize,
    out: *mut u8,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        let (from, out) = unsafe { (input(from, count), output(out, dag.nodes())) };
        let from = dag.checked(from)?;
        let way = if down == 0 { Direction::Up } else { Direction::Down };
        out.fill(0);
        dag.mark(out, &from, way, 1, Limits::default());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_dag_check(
    dag: &Dag,
    criterion: c_int,
    nodes: *const i64,
    ends: *const i64,
    queries: usize,
    out: *mut u64,
    threads: usize,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract; the last end is the number of nodes.
        let (ends, out) = unsafe { (input(ends, 3 * queries), output(out, queries)) };
        let total = ends.last().map_or(0, |&end| end as usize);
        // SAFETY: as above.
        let nodes = unsafe { input(nodes, total) };
        for_row_blocks(out, 1, threads, |first, block| {
            for (query, out) in (first..).zip(block) {
                let end = |k: usize| if k == 0 { 0 } else { ends[k - 1] as usize };
                let set =
                    |k: usize| dag.checked(&nodes[end(3 * query + k)..end(3 * query + k + 1)]);
                let (x, y, z) = (set(0)?, set(1)?, set(2)?);
                check_disjoint(dag, &[&x, &y, &z])?;
                *out = u64::from(match criterion {
                    0 => separated(dag, &x, &y, &z, &[]),
                    1 => is_back_door(dag, &x, &y, &z),
                    _ => is_front_door(dag, &x, &y, &z),
                });
            }
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_dag_find(
    dag: &Dag,
    criterion: c_int,
    x: *const i64,
    x_count: usize,
    y: *const i64,
    y_count: usize,
    excluded: *const i64,
    excluded_count: usize,
    out: *mut u8,
    found: *mut c_int,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        let (x, y, excluded, out) = unsafe {
            (
                dag.checked(input(x, x_count))?,
                dag.checked(input(y, y_count))?,
                dag.checked(input(excluded, excluded_count))?,
                output(out, dag.nodes()),
            )
        };
        check_disjoint(dag, &[&x, &y])?;
        let search = if criterion == 1 { back_door } else { front_door };
        let success = search(dag, &x, &y, &excluded, out);
        // SAFETY: the caller passes a valid address.
        unsafe { *found = c_int::from(success) };
        Ok(())
    })
}

//! d-separation and back-door adjustment in linear time, without the moral graph.
//!
//! Belongs here: Bayes-ball reachability (Shachter 1998, arXiv:1301.7412), the back-door criterion
//! (Pearl 2009, definition 3.3.1) and minimal back-door sets (van der Zander and Liskiewicz 2019,
//! "Finding minimal d-separators in linear time and applications", UAI).
//! Does not belong here: graph storage, front-door sets.

use crate::dag::{Dag, Direction, Limits};
use crate::error::{KernelError, Result};

/// The ball arrived from a child of the node.
const FROM_CHILD: u8 = 1;
/// The ball arrived from a parent of the node.
const FROM_PARENT: u8 = 2;
/// Conditioned on.
const GIVEN: u8 = 4;
/// Conditioned on, or a cause of such a node: open where two arrows meet.
const OPEN: u8 = 8;
/// Edges out of the node do not exist.
const CUT: u8 = 16;
const GOAL: u8 = 32;
/// An effect of x, or not to be used.
const MARK: u8 = 64;
/// A cause of one of the two sets to separate, or a member.
const ANCESTOR: u8 = 128;

/// Refuse sets that share a node.
pub fn check_disjoint(dag: &Dag, sets: &[&[u32]]) -> Result<()> {
    let mut owner = vec![0_u8; dag.nodes()];
    for (k, set) in sets.iter().enumerate() {
        for &v in *set {
            let before = std::mem::replace(&mut owner[v as usize], k as u8 + 1);
            if before != 0 && before != k as u8 + 1 {
                return Err(KernelError::SharedNode(v as usize));
            }
        }
    }
    Ok(())
}

fn set_bits(flags: &mut [u8], nodes: &[u32], bits: u8) {
    for &v in nodes {
        flags[v as usize] |= bits;
    }
}

/// Whether `z` blocks every path between `x` and `y`, after the edges out of `cut` are removed.
pub fn separated(dag: &Dag, x: &[u32], y: &[u32], z: &[u32], cut: &[u32]) -> bool {
    let mut flags = vec![0_u8; dag.nodes()];
    set_bits(&mut flags, cut, CUT);
    dag.mark(&mut flags, z, Direction::Up, OPEN, Limits { cut: CUT, wall: 0 });
    set_bits(&mut flags, z, GIVEN);
    set_bits(&mut flags, y, GOAL);
    !reaches(dag, &mut flags, x)
}

/// Roll the ball from `start`; stop early, with true, at a goal that is not given.
fn reaches(dag: &Dag, flags: &mut [u8], start: &[u32]) -> bool {
    // A node and, in the lowest bit, whether the ball came from a parent.
    let mut pending: Vec<u32> = Vec::with_capacity(256);
    for &v in start {
        flags[v as usize] |= FROM_CHILD;
        pending.push(v << 1);
    }
    while let Some(entry) = pending.pop() {
        let v = entry >> 1;
        let here = flags[v as usize];
        let given = here & GIVEN != 0;
        if here & GOAL != 0 && !given {
            return true;
        }
        let came_down = entry & 1 == 1;
        let goes_up = if came_down { here & OPEN != 0 } else { !given };
        if goes_up {
            for &p in dag.parents(v) {
                if flags[p as usize] & (FROM_CHILD | CUT) == 0 {
                    flags[p as usize] |= FROM_CHILD;
                    pending.push(p << 1);
                }
            }
        }
        if !given && here & CUT == 0 {
            for &c in dag.children(v) {
                if flags[c as usize] & FROM_PARENT == 0 {
                    flags[c as usize] |= FROM_PARENT;
                    pending.push(c << 1 | 1);
                }
            }
        }
    }
    false
}

/// Whether `z` holds no effect of `x` and blocks every path from `x` to `y` that begins with an
/// arrow into `x`.
pub fn is_back_door(dag: &Dag, x: &[u32], y: &[u32], z: &[u32]) -> bool {
    let mut flags = vec![0_u8; dag.nodes()];
    dag.mark(&mut flags, x, Direction::Down, MARK, Limits::default());
    z.iter().all(|&v| flags[v as usize] & MARK == 0) && separated(dag, x, y, z, x)
}

/// A back-door set without `excluded` nodes of which no proper subset is one; written to `out`
/// as 0 and 1. False if there is none.
pub fn back_door(dag: &Dag, x: &[u32], y: &[u32], excluded: &[u32], out: &mut [u8]) -> bool {
    let mut flags = vec![0_u8; dag.nodes()];
    set_bits(&mut flags, x, CUT);
    // Members of a minimal set are causes of x or y in the graph without the edges out of x.
    let both = [x, y].concat();
    dag.mark(&mut flags, &both, Direction::Up, ANCESTOR, Limits { cut: CUT, wall: 0 });
    dag.mark(&mut flags, x, Direction::Down, MARK, Limits::default());
    set_bits(&mut flags, excluded, MARK);
    set_bits(&mut flags, y, MARK);
    for flag in &mut flags {
        // GIVEN: every candidate.
        let candidate = *flag & (ANCESTOR | MARK) == ANCESTOR;
        *flag = (*flag & (ANCESTOR | CUT)) | if candidate { GIVEN } else { 0 };
    }
    set_bits(&mut flags, y, GOAL);
    if walk_moral(dag, &mut flags, x) {
        return false;
    }
    keep_reached(&mut flags);
    for flag in &mut flags {
        *flag &= !GOAL;
    }
    walk_moral(dag, &mut flags, y);
    keep_reached(&mut flags);
    for (out, flag) in out.iter_mut().zip(&flags) {
        *out = u8::from(flag & GIVEN != 0);
    }
    true
}

/// Leave given only what the last walk touched, and forget the walk.
fn keep_reached(flags: &mut [u8]) {
    for flag in flags {
        if *flag & (FROM_CHILD | FROM_PARENT) == 0 {
            *flag &= !GIVEN;
        }
        *flag &= !(FROM_CHILD | FROM_PARENT);
    }
}

/// Walk the moral graph of the ancestors, in which two parents of one ancestor are neighbours, up
/// to and including given nodes. True if it meets a goal.
fn walk_moral(dag: &Dag, flags: &mut [u8], start: &[u32]) -> bool {
    let mut pending: Vec<u32> = Vec::with_capacity(256);
    for &v in start {
        flags[v as usize] |= FROM_CHILD;
        pending.push(v << 1);
    }
    while let Some(entry) = pending.pop() {
        let v = entry >> 1;
        let here = flags[v as usize];
        if here & GOAL != 0 {
            return true;
        }
        let given = here & GIVEN != 0;
        let came_down = entry & 1 == 1;
        // Where two arrows meet the ball passes to the other parents even if the node is given.
        if came_down || !given {
            for &p in dag.parents(v) {
                if flags[p as usize] & (FROM_CHILD | CUT) == 0 {
                    flags[p as usize] |= FROM_CHILD;
                    pending.push(p << 1);
                }
            }
        }
        if !given && here & CUT == 0 {
            for &c in dag.children(v) {
                if flags[c as usize] & (FROM_PARENT | ANCESTOR) == ANCESTOR {
                    flags[c as usize] |= FROM_PARENT;
                    pending.push(c << 1 | 1);
                }
            }
        }
    }
    false
}

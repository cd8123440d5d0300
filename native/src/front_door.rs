//! Front-door sets in linear time.
//!
//! A set Z is a front-door set for the effect of X on Y if (1) it meets every directed path from X
//! to Y, (2) no path that begins with an arrow into X leads openly to Z, and (3) X blocks every
//! path from Z to Y that begins with an arrow into Z (Pearl 2009, definition 3.3.3; for sets of
//! nodes: Jeong, Tian and Bareinboim 2022, "Finding and listing front-door adjustment sets",
//! NeurIPS). Linear time: Wienoebst, van der Zander and Liskiewicz 2024, "Linear-time algorithms
//! for front-door adjustment in causal graphs", AAAI, arXiv:2211.16468.
//!
//! Belongs here: the criterion, and the search for a minimal set.
//! Does not belong here: back-door sets, graph storage.

use crate::dag::{Dag, Direction, Limits};
use crate::separation::separated;

const FROM_CHILD: u8 = 1;
const FROM_PARENT: u8 = 2;
/// Member of the set under construction.
const MEMBER: u8 = 4;
/// Member of X: conditioned on.
const X: u8 = 8;
/// X or a cause of X: open where two arrows meet.
const OPEN: u8 = 16;
/// The ball wants to enter this member from a child.
const WAITING: u8 = 32;
/// Bit for plain reachability.
const MARK: u8 = 64;
/// Chosen for the minimal set.
const CHOSEN: u8 = 128;

pub fn is_front_door(dag: &Dag, x: &[u32], y: &[u32], z: &[u32]) -> bool {
    let mut flags = vec![0_u8; dag.nodes()];
    set_bits(&mut flags, z, MEMBER);
    !escapes(dag, &mut flags, x, y) && separated(dag, x, z, &[], x) && separated(dag, z, y, x, z)
}

/// A front-door set without `excluded` nodes of which no proper subset is one; written to `out`
/// as 0 and 1. False if there is none.
pub fn front_door(dag: &Dag, x: &[u32], y: &[u32], excluded: &[u32], out: &mut [u8]) -> bool {
    let mut flags = vec![0_u8; dag.nodes()];
    set_bits(&mut flags, x, X);
    mark_candidates(dag, &mut flags, x, y, excluded);
    drop_confounded(dag, &mut flags, y);
    if escapes(dag, &mut flags, x, y) {
        return false;
    }
    choose(dag, &mut flags, x, y);
    for (out, flag) in out.iter_mut().zip(&flags) {
        *out = u8::from(flag & CHOSEN != 0);
    }
    true
}

fn set_bits(flags: &mut [u8], nodes: &[u32], bits: u8) {
    for &v in nodes {
        flags[v as usize] |= bits;
    }
}

fn clear_bits(flags: &mut [u8], bits: u8) {
    for flag in flags {
        *flag &= !bits;
    }
}

/// Whether a directed path from `x` to `y` avoids all members.
fn escapes(dag: &Dag, flags: &mut [u8], x: &[u32], y: &[u32]) -> bool {
    dag.mark(flags, x, Direction::Down, MARK, Limits { cut: 0, wall: MEMBER });
    let found = y.iter().any(|&v| flags[v as usize] & MARK != 0);
    clear_bits(flags, MARK);
    found
}

/// Make members of all nodes that satisfy condition 2: those that are neither causes of X nor,
/// other than through X, effects of such causes. Marks the causes of X as open.
fn mark_candidates(dag: &Dag, flags: &mut [u8], x: &[u32], y: &[u32], excluded: &[u32]) {
    dag.mark(flags, x, Direction::Up, OPEN, Limits::default());
    let causes: Vec<u32> =
        (0..dag.nodes() as u32).filter(|&v| flags[v as usize] & (OPEN | X) == OPEN).collect();
    dag.mark(flags, &causes, Direction::Down, MARK, Limits { cut: X, wall: 0 });
    for nodes in [x, y, excluded] {
        set_bits(flags, nodes, MARK);
    }
    for flag in flags {
        *flag = if *flag & MARK == 0 { *flag | MEMBER } else { *flag & !MARK };
    }
}

/// Drop members until condition 3 holds for the rest: the largest set that satisfies it, as
/// unions of such sets satisfy it too. The ball rolls from Y given X; edges out of members are
/// cut. A member that it enters leaves the set, which restores its edges, so the ball goes on
/// through it and every entry that waited for one of those edges happens now. No member is a cause
/// of X, so that what is open where arrows meet never changes.
fn drop_confounded(dag: &Dag, flags: &mut [u8], y: &[u32]) {
    let mut pending: Vec<u32> = Vec::with_capacity(256);
    for &v in y {
        flags[v as usize] |= FROM_CHILD;
        pending.push(v << 1);
    }
    while let Some(entry) = pending.pop() {
        let v = entry >> 1;
        let came_down = entry & 1 == 1;
        if flags[v as usize] & MEMBER != 0 {
            flags[v as usize] &= !MEMBER;
            if flags[v as usize] & WAITING != 0 {
                flags[v as usize] |= FROM_CHILD;
                pending.push(v << 1);
            }
        }
        let here = flags[v as usize];
        if (came_down && here & OPEN != 0) || (!came_down && here & X == 0) {
            for &p in dag.parents(v) {
                let flag = &mut flags[p as usize];
                if *flag & MEMBER != 0 {
                    *flag |= WAITING;
                } else if *flag & FROM_CHILD == 0 {
                    *flag |= FROM_CHILD;
                    pending.push(p << 1);
                }
            }
        }
        if here & X == 0 {
            for &c in dag.children(v) {
                if flags[c as usize] & FROM_PARENT == 0 {
                    flags[c as usize] |= FROM_PARENT;
                    pending.push(c << 1 | 1);
                }
            }
        }
    }
    clear_bits(flags, FROM_CHILD | FROM_PARENT | WAITING);
}

/// Choose a minimal subset of the members.
///
/// Only members with a directed path to Y that meets no other member are of use; the first of
/// them on a directed path from X is needed. Where a path that begins with an arrow into a chosen
/// node reaches another useful one, that one is needed too: from there a directed path leads on to
/// Y, which only cutting the edges out of it can block.
fn choose(dag: &Dag, flags: &mut [u8], x: &[u32], y: &[u32]) {
    dag.mark(flags, y, Direction::Up, MARK, Limits { cut: 0, wall: MEMBER });
    for v in 0..dag.nodes() as u32 {
        // The wall kept the mark off the members: useful ones have a marked child.
        let useful = dag.children(v).iter().any(|&c| flags[c as usize] & MARK != 0);
        if flags[v as usize] & MEMBER != 0 && !useful {
            flags[v as usize] |= WAITING;
        }
    }
    for flag in flags.iter_mut() {
        if *flag & WAITING != 0 {
            *flag &= !MEMBER;
        }
        *flag &= !(WAITING | MARK);
    }
    dag.mark(flags, x, Direction::Down, MARK, Limits { cut: 0, wall: MEMBER });
    let mut chosen: Vec<u32> = Vec::new();
    for v in 0..dag.nodes() as u32 {
        let first = dag.parents(v).iter().any(|&p| flags[p as usize] & MARK != 0);
        if flags[v as usize] & MEMBER != 0 && first {
            flags[v as usize] |= CHOSEN;
            chosen.push(v);
        }
    }
    let mut pending: Vec<u32> = Vec::with_capacity(256);
    while let Some(v) = chosen.pop() {
        enter_parents(dag, flags, v, &mut pending, &mut chosen);
        while let Some(entry) = pending.pop() {
            let (v, came_down) = (entry >> 1, entry & 1 == 1);
            let here = flags[v as usize];
            if (came_down && here & OPEN != 0) || (!came_down && here & X == 0) {
                enter_parents(dag, flags, v, &mut pending, &mut chosen);
            }
            if here & X == 0 {
                for &c in dag.children(v) {
                    enter(flags, c, FROM_PARENT, &mut pending, &mut chosen);
                }
            }
        }
    }
}

fn enter_parents(
    dag: &Dag,
    flags: &mut [u8],
    v: u32,
    pending: &mut Vec<u32>,
    chosen: &mut Vec<u32>,
) {
    for &p in dag.parents(v) {
        enter(flags, p, FROM_CHILD, pending, chosen);
    }
}

/// Choose the node if it is a member; let the ball in otherwise.
fn enter(flags: &mut [u8], v: u32, from: u8, pending: &mut Vec<u32>, chosen: &mut Vec<u32>) {
    let flag = &mut flags[v as usize];
    if *flag & MEMBER != 0 {
        if *flag & CHOSEN == 0 {
            *flag |= CHOSEN;
            chosen.push(v);
        }
    } else if *flag & from == 0 {
        *flag |= from;
        pending.push(v << 1 | u32::from(from == FROM_PARENT));
    }
}

//! Directed acyclic graphs in compressed sparse rows.
//!
//! Belongs here: the checked graph, its topological order (Kahn 1962) and plain reachability.
//! Does not belong here: anything that conditions on nodes (`separation`, `front_door`).

use crate::error::{KernelError, Result};

/// Rows of node numbers: row `v` is `items[starts[v]..starts[v + 1]]`, ascending.
struct Rows {
    starts: Vec<u32>,
    items: Vec<u32>,
}

impl Rows {
    /// Row starts for rows of these lengths; `lengths` ends up holding them too, as cursors.
    fn with_lengths(lengths: &mut [u32], total: usize) -> Self {
        let mut starts = Vec::with_capacity(lengths.len() + 1);
        let mut sum = 0;
        for length in lengths {
            starts.push(sum);
            sum += std::mem::replace(length, sum);
        }
        starts.push(sum);
        Self { starts, items: vec![0; total] }
    }

    #[inline(always)]
    fn row(&self, v: u32) -> &[u32] {
        &self.items[self.starts[v as usize] as usize..self.starts[v as usize + 1] as usize]
    }

    /// The same edges listed from their other end; scanning in order leaves rows ascending.
    fn transposed(&self, mut lengths: Vec<u32>) -> Self {
        let mut result = Self::with_lengths(&mut lengths, self.items.len());
        for (v, ends) in self.starts.windows(2).enumerate() {
            for &w in &self.items[ends[0] as usize..ends[1] as usize] {
                let cursor = &mut lengths[w as usize];
                result.items[*cursor as usize] = v as u32;
                *cursor += 1;
            }
        }
        result
    }
}

pub struct Dag {
    parents: Rows,
    children: Rows,
    order: Vec<u32>,
}

/// Which way to follow edges.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

impl Dag {
    // The caller keeps nodes below 2^31, so that a node and a direction share 32 bits, and edges
    // below 2^32.
    /// Build from `(cause, effect)` pairs. A cycle is written to `cycle`, which has room for
    /// every node, each node followed by one of its effects.
    pub fn new(nodes: usize, edges: &[[i64; 2]], cycle: &mut [i64]) -> Result<Self> {
        let (mut ins, mut outs) = (vec![0_u32; nodes], vec![0_u32; nodes]);
        for (row, &[cause, effect]) in edges.iter().enumerate() {
            if cause as u64 >= nodes as u64 || effect as u64 >= nodes as u64 {
                return Err(KernelError::EdgeRange(row));
            }
            if cause == effect {
                return Err(KernelError::SelfEdge(row));
            }
            outs[cause as usize] += 1;
            ins[effect as usize] += 1;
        }
        let mut cursors = outs.clone();
        let mut unsorted = Rows::with_lengths(&mut cursors, edges.len());
        for &[cause, effect] in edges {
            let cursor = &mut cursors[cause as usize];
            unsorted.items[*cursor as usize] = effect as u32;
            *cursor += 1;
        }
        let parents = unsorted.transposed(ins.clone());
        let children = parents.transposed(outs);
        for effect in 0..nodes as u32 {
            if let Some(pair) = parents.row(effect).windows(2).find(|pair| pair[0] == pair[1]) {
                let repeated = [i64::from(pair[0]), i64::from(effect)];
                let mut rows = (0..edges.len()).filter(|&row| edges[row] == repeated);
                return Err(KernelError::DuplicateEdge(rows.nth(1).unwrap_or(0)));
            }
        }
        let mut dag = Self { parents, children, order: Vec::new() };
        let order = dag.sorted(&mut ins);
        if order.len() < nodes {
            return Err(KernelError::Cycle(dag.write_cycle(&ins, cycle)));
        }
        dag.order = order;
        Ok(dag)
    }

    /// Nodes after their parents; `blocked` counts parents and keeps those not yet placed.
    fn sorted(&self, blocked: &mut [u32]) -> Vec<u32> {
        let mut order: Vec<u32> =
            (0..self.nodes() as u32).filter(|&v| blocked[v as usize] == 0).collect();
        order.reserve_exact(self.nodes() - order.len());
        let mut next = 0;
        while next < order.len() {
            let v = order[next];
            next += 1;
            for &child in self.children(v) {
                blocked[child as usize] -= 1;
                if blocked[child as usize] == 0 {
                    order.push(child);
                }
            }
        }
        order
    }

    /// Walk from effect to cause among the nodes that could not be placed: each has an unplaced
    /// parent, so that the walk must meet itself. Returns the length of the cycle.
    fn write_cycle(&self, blocked: &[u32], cycle: &mut [i64]) -> usize {
        let mut v = blocked.iter().position(|&count| count > 0).unwrap_or(0) as u32;
        let mut place = vec![u32::MAX; self.nodes()];
        let mut walk = Vec::new();
        while place[v as usize] == u32::MAX {
            place[v as usize] = walk.len() as u32;
            walk.push(v);
            let unplaced = self.parents(v).iter().find(|&&p| blocked[p as usize] > 0);
            v = *unplaced.expect("an unplaced node has an unplaced parent");
        }
        let found = &walk[place[v as usize] as usize..];
        for (out, &node) in cycle.iter_mut().zip(found.iter().rev()) {
            *out = i64::from(node);
        }
        found.len()
    }

    pub fn nodes(&self) -> usize {
        self.parents.starts.len() - 1
    }

    #[inline(always)]
    pub fn parents(&self, v: u32) -> &[u32] {
        self.parents.row(v)
    }

    #[inline(always)]
    pub fn children(&self, v: u32) -> &[u32] {
        self.children.row(v)
    }

    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// Node numbers as the caller gave them, checked.
    pub fn checked(&self, given: &[i64]) -> Result<Vec<u32>> {
        let nodes = self.nodes() as u64;
        match given.iter().position(|&v| v as u64 >= nodes) {
            Some(index) => Err(KernelError::NodeRange(given[index])),
            None => Ok(given.iter().map(|&v| v as u32).collect()),
        }
    }

    /// Set `bit` in `flags` for `from` and every node on a directed path from (`Down`) or to
    /// (`Up`) them. Edges out of nodes that carry any bit of `cut` do not exist; nodes that carry
    /// any bit of `wall` are not entered.
    pub fn mark(&self, flags: &mut [u8], from: &[u32], way: Direction, bit: u8, limits: Limits) {
        let mut pending: Vec<u32> = Vec::with_capacity(64);
        for &v in from {
            if flags[v as usize] & bit == 0 {
                flags[v as usize] |= bit;
                pending.push(v);
            }
        }
        while let Some(v) = pending.pop() {
            let (next, barred) = match way {
                Direction::Up => (self.parents(v), bit | limits.wall | limits.cut),
                Direction::Down if flags[v as usize] & limits.cut != 0 => continue,
                Direction::Down => (self.children(v), bit | limits.wall),
            };
            for &w in next {
                if flags[w as usize] & barred == 0 {
                    flags[w as usize] |= bit;
                    pending.push(w);
                }
            }
        }
    }
}

/// Bits of nodes that stop a walk.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    pub cut: u8,
    pub wall: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(nodes: usize, edges: &[[i64; 2]]) -> Result<Dag> {
        Dag::new(nodes, edges, &mut vec![-1; nodes])
    }

    #[test]
    fn refuses_what_is_no_acyclic_graph() {
        assert_eq!(build(2, &[[0, 2]]).err(), Some(KernelError::EdgeRange(0)));
        assert_eq!(build(2, &[[0, 1], [-1, 0]]).err(), Some(KernelError::EdgeRange(1)));
        assert_eq!(build(2, &[[0, 1], [1, 1]]).err(), Some(KernelError::SelfEdge(1)));
        assert_eq!(build(3, &[[0, 1], [1, 2], [0, 1]]).err(), Some(KernelError::DuplicateEdge(2)));
    }

    #[test]
    fn names_a_cycle_in_the_direction_of_its_edges() {
        let edges = [[0, 1], [1, 2], [2, 3], [3, 1], [3, 4]];
        let mut cycle = [-1; 5];
        let error = Dag::new(5, &edges, &mut cycle).err();
        assert_eq!(error, Some(KernelError::Cycle(3)));
        for k in 0..3 {
            assert!(edges.contains(&[cycle[k], cycle[(k + 1) % 3]]));
        }
    }

    #[test]
    fn graphs_without_edges_or_nodes_are_graphs() {
        assert_eq!(build(0, &[]).unwrap().order(), &[] as &[u32]);
        assert_eq!(build(2, &[]).unwrap().order(), &[0, 1]);
    }
}

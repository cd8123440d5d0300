//! Failures a caller can cause. The numbers are the C interface's return codes.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelError {
    /// A plaintext is not below n; holds its row.
    PlaintextRange(usize),
    /// A ciphertext is not below n^2; holds its row.
    CiphertextRange(usize),
    /// A given exponent or r is not in range; holds its row.
    RandomnessRange(usize),
    /// A ciphertext shares a factor with the modulus; holds its index.
    NotInvertible(usize),
    /// A value does not fit its slot or its result type; holds its index.
    Overflow(usize),
    /// The operating system gave no random bytes.
    Entropy,
    /// The requested instruction set path cannot run on this processor.
    UnavailableIsa,
    /// A modulus is even, too small, or not a product the scheme allows.
    BadModulus,
    /// An index is not in the array; holds its position.
    IndexRange(usize),
    /// Arrays are under different moduli or kept in different forms.
    OtherForm,
    /// An edge names a node that does not exist; holds its row.
    EdgeRange(usize),
    /// An edge joins a node to itself; holds its row.
    SelfEdge(usize),
    /// An edge was given before; holds its row.
    DuplicateEdge(usize),
    /// The edges form a cycle; holds its length.
    Cycle(usize),
    /// A set names a node that does not exist; holds it.
    NodeRange(i64),
    /// Two sets that must be disjoint share a node; holds it.
    SharedNode(usize),
}

impl KernelError {
    /// Return code and detail for the C interface; 0 is success and 1 a panic.
    pub fn code(self) -> (i32, u64) {
        match self {
            Self::PlaintextRange(row) => (2, row as u64),
            Self::CiphertextRange(row) => (3, row as u64),
            Self::RandomnessRange(row) => (4, row as u64),
            Self::NotInvertible(row) => (5, row as u64),
            Self::Overflow(index) => (6, index as u64),
            Self::Entropy => (7, 0),
            Self::UnavailableIsa => (8, 0),
            Self::BadModulus => (9, 0),
            Self::IndexRange(position) => (10, position as u64),
            Self::OtherForm => (11, 0),
            Self::EdgeRange(row) => (12, row as u64),
            Self::SelfEdge(row) => (13, row as u64),
            Self::DuplicateEdge(row) => (14, row as u64),
            Self::Cycle(length) => (15, length as u64),
            Self::NodeRange(node) => (16, node as u64),
            Self::SharedNode(node) => (17, node as u64),
        }
    }
}

pub type Result<T> = std::result::Result<T, KernelError>;

//! Programs of products: which registers to multiply, in layers that do not depend on one another.
//!
//! Belongs here: the form of such programs, and building them.
//! Does not belong here: running them (`batch::GroupWorker`), and which products compute what.

/// `out = left right`; `out` may be `left`.
#[derive(Clone, Copy)]
pub struct Operation {
    pub out: u32,
    pub left: u32,
    pub right: u32,
}

/// Operations of one kind that may run at once.
pub struct Layer {
    pub squares: bool,
    pub operations: Vec<Operation>,
}

/// The first registers hold the inputs and are never overwritten.
pub struct Program {
    pub inputs: usize,
    pub registers: usize,
    pub layers: Vec<Layer>,
    /// Registers of the results; `None` stands for 1.
    pub outputs: Vec<Option<u32>>,
}

/// A factor: 1, a register that others use, or one that may be overwritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value {
    One,
    Shared(u32),
    Own(u32),
}

impl Value {
    pub fn register(self) -> Option<u32> {
        match self {
            Self::One => None,
            Self::Shared(register) | Self::Own(register) => Some(register),
        }
    }

    pub fn shared(self) -> Self {
        self.register().map_or(Self::One, Self::Shared)
    }
}

/// Lists multiplied at once are cut until a layer has this many operations: enough to fill
/// vectors of eight many times over.
const WIDE_LAYER: usize = 64;

pub struct Builder {
    inputs: usize,
    registers: usize,
    free: Vec<u32>,
    layers: Vec<Layer>,
    squares: Vec<Operation>,
    products: Vec<Operation>,
}

impl Builder {
    pub fn new(inputs: usize) -> Self {
        let (layers, squares, products) = (Vec::new(), Vec::new(), Vec::new());
        Self { inputs, registers: inputs, free: Vec::new(), layers, squares, products }
    }

    /// All inputs, in order.
    pub fn inputs(&self) -> Vec<Value> {
        (0..self.inputs).map(|register| Value::Shared(register as u32)).collect()
    }

    /// The product of two values, available once the layer has ended.
    pub fn multiply(&mut self, x: Value, y: Value) -> Value {
        let (Some(left), Some(right)) = (x.register(), y.register()) else {
            return if x == Value::One { y } else { x };
        };
        let out = self.target(x, left);
        self.products.push(Operation { out, left, right });
        Value::Own(out)
    }

    /// The square of a value, available once the layer has ended.
    pub fn square(&mut self, x: Value) -> Value {
        let Some(left) = x.register() else { return x };
        let out = self.target(x, left);
        self.squares.push(Operation { out, left, right: left });
        Value::Own(out)
    }

    fn target(&mut self, x: Value, register: u32) -> u32 {
        if let Value::Own(_) = x {
            return register;
        }
        self.free.pop().unwrap_or_else(|| {
            self.registers += 1;
            (self.registers - 1) as u32
        })
    }

    /// Let later layers see, and overwrite, what this one computed.
    pub fn end_layer(&mut self) {
        for (squares, operations) in [(true, &mut self.squares), (false, &mut self.products)] {
            if !operations.is_empty() {
                let operations = std::mem::take(operations);
                self.layers.push(Layer { squares, operations });
            }
        }
    }

    /// Give back the registers of values that nothing refers to any more.
    pub fn release(&mut self, values: impl IntoIterator<Item = Value>) {
        for value in values {
            if let Value::Own(register) = value {
                self.free.push(register);
            }
        }
    }

    /// The product of each list; values that lists own are overwritten.
    pub fn products(&mut self, lists: &[Vec<Value>]) -> Vec<Value> {
        let parts = WIDE_LAYER.div_ceil(lists.len().max(1));
        let mut partial: Vec<Vec<Value>> =
            lists.iter().map(|list| list.iter().copied().take(parts).collect()).collect();
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        for start in (parts..longest).step_by(parts) {
            for (partial, list) in partial.iter_mut().zip(lists) {
                for (value, &factor) in partial.iter_mut().zip(list.iter().skip(start)) {
                    *value = self.multiply(*value, factor);
                }
            }
            self.end_layer();
        }
        while partial.iter().any(|values| values.len() > 1) {
            for values in &mut partial {
                let half = values.len().div_ceil(2);
                for i in half..values.len() {
                    values[i - half] = self.multiply(values[i - half], values[i]);
                }
                values.truncate(half);
            }
            self.end_layer();
        }
        partial.into_iter().map(|values| values.first().copied().unwrap_or(Value::One)).collect()
    }

    /// value^(2^count) for each value.
    pub fn repeated_squares(&mut self, values: &mut [Value], count: usize) {
        for _ in 0..count {
            for value in values.iter_mut() {
                *value = self.square(*value);
            }
            self.end_layer();
        }
    }

    pub fn finish(self, outputs: &[Value]) -> Program {
        Program {
            inputs: self.inputs,
            registers: self.registers,
            layers: self.layers,
            outputs: outputs.iter().map(|value| value.register()).collect(),
        }
    }
}

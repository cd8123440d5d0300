//! Pairs (A, B) that stand for A R + B N: the form in which Montgomery reduction leaves the
//! product of two halves.
//!
//! T = r R - m N is the pair (r, -m) at once, without the second reduction that the pair (a, b)
//! of [`LaneRing`] costs. So the product of two factors takes one product and one reduction, and
//! multiplying by it
//!
//!   (A R + B N)(r R - m N) = R^2 (A' R + B' N)          (mod N^2)
//!   A r = A' R - m' N,  B' = (B r - A m) / R - m'       (mod N)
//!
//! three and two: seven half-size steps for two factors, where one at a time takes four each.

use super::columns::{
    Above, Minus, MinusMasked, Negated, Plus, PlusQuadruple, Product, load, reduce, store,
};
use super::lanes::{Lane, Lanes};
use super::ring::{LaneRing, LaneScratch, add_digits, negate_digits};

/// A is below 2 N. B lies between -R and R: it is `second`, less R in the lanes where `borrow` is
/// -1.
pub struct Shifted {
    first: Lanes,
    second: Lanes,
    borrow: Lanes,
}

impl Shifted {
    pub fn new(ring: &LaneRing) -> Self {
        let [first, second] = [(); 2].map(|()| Lanes::zeros(ring.digits()));
        Self { first, second, borrow: Lanes::zeros(1) }
    }

    /// x y, of two halves below N.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn set_product(&mut self, ring: &LaneRing, x: &[Lane], y: &[Lane], s: &mut LaneScratch) {
        reduce(ring.modulo(), &mut s.first, &mut self.first, Product(x, y));
        store(&mut self.borrow[0], negate_digits(&mut self.second, &s.first));
    }

    /// `power` x y / R^2, for x and y of one half below N.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn set_multiple(
        &mut self,
        ring: &LaneRing,
        power: &Self,
        x: &[Lane],
        y: &[Lane],
        s: &mut LaneScratch,
    ) {
        let n = ring.modulo();
        let digits = ring.digits();
        let (a, b) = (&*power.first, &*power.second);
        reduce(n, &mut s.first, &mut s.second, Product(x, y));
        let (m, r) = (&*s.first, &*s.second);
        let (own, other) = s.wide.split_at_mut(digits);
        reduce(n, own, &mut self.first, Product(a, r));
        // The quotient by R is above -4 N, so with 4 N more it is positive, and -R the least that
        // B can become. Adding B r for B with a borrow adds -r above.
        let carry = reduce(
            n,
            other,
            &mut self.second,
            (
                (Negated(Product(a, m)), Product(b, r)),
                Above(
                    digits,
                    ((Minus(own), PlusQuadruple(n.digits)), MinusMasked(&power.borrow[0], r)),
                ),
            ),
        );
        store(&mut self.borrow[0], carry);
    }

    /// The same divided by R, as an element.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn element(&self, ring: &LaneRing, out: &mut [Lane], s: &mut LaneScratch) {
        let n = ring.modulo();
        let (low, high) = out.split_at_mut(ring.digits());
        low.copy_from_slice(&self.first);
        reduce(n, &mut s.first, high, Plus(&self.second));
        // The borrow of R leaves one, and N more keeps that from being negative.
        add_digits(high, n.digits, load(&self.borrow[0]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::limbs::sub_assign;
    use crate::ring::SquareRing;

    /// Powers of factors two at a time, against products of pairs one at a time.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn compare(modulus: &[u64]) {
        let ring = LaneRing::new(&SquareRing::new(modulus, Isa::Portable)).expect("a small ring");
        let (limbs, digits) = (ring.limbs(), ring.digits());
        let mut s = ring.scratch();
        let number = |low: u64| crate::limbs::padded(&[low], limbs);
        let below = |subtrahend: u64| {
            let mut value = modulus.to_vec();
            sub_assign(&mut value, &number(subtrahend));
            value
        };
        let mut half = modulus.to_vec();
        half[limbs - 1] >>= 1;
        let high = |bits: u32| {
            let mut value = vec![0; limbs];
            value[limbs - 1] = half[limbs - 1] >> bits;
            value
        };
        let mut values =
            [number(0), number(1), below(1), below(2), half.clone(), high(0), high(3), number(9)];
        let mut factor = |values: &[Vec<u64>]| {
            let mut pair = ring.element();
            s.converter.read(&values.concat(), limbs, &mut pair[..digits]);
            pair
        };
        let factors: Vec<_> = (0..10)
            .map(|turn| {
                // Lanes 0 and 1 keep the factors 0 and 1; in the others the order changes.
                values[2..].rotate_left(turn % 2);
                factor(&values)
            })
            .collect();
        let mut s = ring.scratch();
        let mut expected = factors[0].clone();
        let [mut next, mut plain] = [(); 2].map(|()| ring.element());
        let [mut power, mut multiple] = [(); 2].map(|()| Shifted::new(&ring));
        power.set_product(&ring, &factors[0][..digits], &factors[1][..digits], &mut s);
        ring.mul(&mut next, &expected, &factors[1], &mut s);
        std::mem::swap(&mut next, &mut expected);
        let mut check = |power: &Shifted, expected: &[Lane]| {
            let [mut element, mut plain] = [(); 2].map(|()| ring.element());
            let mut rows = [(); 2].map(|()| vec![0; 8 * 2 * limbs]);
            power.element(&ring, &mut element, &mut s);
            for (element, rows) in [&*element, expected].into_iter().zip(&mut rows) {
                ring.leave(&mut plain, element, &mut s);
                ring.write(&mut plain, rows, 2 * limbs, &mut s);
            }
            assert_eq!(rows[0], rows[1]);
        };
        check(&power, &expected);
        let mut s = ring.scratch();
        for pair in factors[2..].chunks(2) {
            let (x, y) = (&pair[0][..digits], &pair[1][..digits]);
            multiple.set_multiple(&ring, &power, x, y, &mut s);
            std::mem::swap(&mut multiple, &mut power);
            for factor in pair {
                ring.mul(&mut plain, &expected, factor, &mut s);
                std::mem::swap(&mut plain, &mut expected);
            }
            check(&power, &expected);
        }
    }

    #[test]
    fn two_factors_at_a_time_are_one_and_another() {
        if !Isa::Avx512Ifma.is_available() {
            return;
        }
        for bits in [64, 506, 507, 1024, 1026, 1536, 2048] {
            let limbs = usize::div_ceil(bits, 64);
            let mut ones = vec![u64::MAX; limbs];
            ones[limbs - 1] >>= 64 * limbs - bits;
            let mut sparse = vec![0; limbs];
            sparse[limbs - 1] = 1 << ((bits - 1) % 64);
            sparse[0] |= 1;
            // SAFETY: the features were checked.
            unsafe {
                compare(&ones);
                compare(&sparse);
            }
        }
    }
}

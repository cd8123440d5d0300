//! Greatest common divisor and inverse modulo an odd number. Variable time: for public values.

use crate::limbs::{
    add_assign, is_below_vartime, is_zero_vartime, negated_inverse, sub_assign, sub_into,
};

/// `1 / a mod n`, or `None` if `a` and the odd `n` share a factor. Both have the same length.
///
/// Binary Euclid that leaves halving modulo n to the end (Kaliski, *The Montgomery inverse and its
/// applications*, 1995): on (u, v) = (n, a), a r = -u 2^k and a s = v 2^k modulo n throughout, and
/// n = u s + v r bounds r and s.
pub fn inverse_vartime(a: &[u64], n: &[u64]) -> Option<Vec<u64>> {
    if is_zero_vartime(a) {
        return None;
    }
    let (mut u, mut v) = (n.to_vec(), a.to_vec());
    let mut r = vec![0; n.len()];
    let mut s = r.clone();
    s[0] = 1;
    let mut halvings = make_odd(&mut v, &mut r);
    loop {
        if is_below_vartime(&v, &u) {
            sub_assign(&mut u, &v);
            add_assign(&mut r, &s);
            halvings += make_odd(&mut u, &mut s);
        } else {
            sub_assign(&mut v, &u);
            add_assign(&mut s, &r);
            if is_zero_vartime(&v) {
                break;
            }
            halvings += make_odd(&mut v, &mut r);
        }
    }
    if !is_one(&u) {
        return None;
    }
    let mut inverse = vec![0; n.len()];
    sub_into(&mut inverse, n, &r);
    let neg_inv = negated_inverse(n[0]);
    while halvings > 0 {
        let step = halvings.min(63);
        halve_modulo(&mut inverse, step, n, neg_inv);
        halvings -= step;
    }
    Some(inverse)
}

/// Whether gcd(a, n) = 1 for odd n.
pub fn coprime_vartime(a: &[u64], n: &[u64]) -> bool {
    let (mut u, mut v) = (a.to_vec(), n.to_vec());
    while !is_zero_vartime(&u) {
        make_odd(&mut u, &mut []);
        if is_below_vartime(&u, &v) {
            std::mem::swap(&mut u, &mut v);
        }
        sub_assign(&mut u, &v);
    }
    is_one(&v)
}

fn is_one(a: &[u64]) -> bool {
    a[0] == 1 && is_zero_vartime(&a[1..])
}

/// Halve `a`, which is not zero, until it is odd; double `b` as often, and return how often.
fn make_odd(a: &mut [u64], b: &mut [u64]) -> u32 {
    let mut count = 0;
    while a[0] & 1 == 0 {
        let step = a[0].trailing_zeros().min(63);
        shift_right(a, step, 0);
        let mut carry = 0;
        for limb in b.iter_mut() {
            (*limb, carry) = (*limb << step | carry, *limb >> (64 - step));
        }
        count += step;
    }
    count
}

/// `a / 2^step` with `top` above the highest limb; `step` is 1 to 63.
fn shift_right(a: &mut [u64], step: u32, mut top: u64) {
    for limb in a.iter_mut().rev() {
        (*limb, top) = (*limb >> step | top << (64 - step), *limb);
    }
}

/// `a = a / 2^step mod n`, for a below n and `step` from 1 to 63.
fn halve_modulo(a: &mut [u64], step: u32, n: &[u64], neg_inv: u64) {
    let multiple = a[0].wrapping_mul(neg_inv) & ((1 << step) - 1);
    let mut carry = 0;
    for (limb, &n) in a.iter_mut().zip(n) {
        let sum = u128::from(n) * u128::from(multiple) + u128::from(*limb) + u128::from(carry);
        (*limb, carry) = (sum as u64, (sum >> 64) as u64);
    }
    shift_right(a, step, carry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_and_gcd_of_small_numbers() {
        let n = [3 * 5 * 7 * 11 * 13];
        for a in 1..n[0] {
            let inverse = inverse_vartime(&[a], &n);
            assert_eq!(inverse.is_some(), coprime_vartime(&[a], &n));
            if let Some(inverse) = inverse {
                assert_eq!(a * inverse[0] % n[0], 1);
            }
        }
        assert!(!coprime_vartime(&[0], &n));
    }

    #[test]
    fn inverse_of_long_numbers() {
        // 2^k is 1 / 2^(b - k) modulo 2^b - 1.
        let n = [u64::MAX; 3];
        for k in 0..192 {
            let [mut power, mut inverse] = [[0; 3]; 2];
            power[k / 64] = 1 << (k % 64);
            let rest = (192 - k) % 192;
            inverse[rest / 64] = 1 << (rest % 64);
            assert_eq!(inverse_vartime(&power, &n).as_deref(), Some(&inverse[..]));
            assert!(coprime_vartime(&power, &n));
        }
        assert_eq!(inverse_vartime(&[5, 0, 0], &n), None);
        assert_eq!(inverse_vartime(&[0; 3], &n), None);
    }
}

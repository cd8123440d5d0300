//! Primes that are 3 modulo 4, with both top bits set: two with few bits set, two with most bits
//! set, then random ones.

pub const PRIME_LIMBS: usize = 4;

type Prime = [u64; PRIME_LIMBS];

#[rustfmt::skip]
pub const KEYS: [[Prime; 2]; 8] = [
    [
        [0x0000000000000077, 0x0000000000000000, 0x0000000000000000, 0xc000000000000000],
        [0x00000000000002d3, 0x0000000000000000, 0x0000000000000001, 0xc000000000000000],
    ],
    [
        [0xfffffffffff0007f, 0xffffffffffffffff, 0xffffffffffffffff, 0xffffffffffffffff],
        [0xffffff000000004f, 0xffffffffffffffff, 0xffffffffffffffff, 0xffffffffffffffff],
    ],
    [
        [0xb9096a04e7d802a7, 0xc963cfe0afae5a3b, 0xe1454c40c439f34a, 0xe6b563b1e794ee14],
        [0xac8be7d742840eb3, 0xd96e5adfa2beee31, 0x19fcfc64e7aa8576, 0xd3d23c0bdf43efb2],
    ],
    [
        [0xe7ca430e92ac3d53, 0x06e82a012b5c5cd1, 0x6820212c69599354, 0xd333bc1cfe6c2b03],
        [0x20050ed31a6e7557, 0x7972a36d51b31a6c, 0x94a67f00f335c357, 0xe977a41b730bed9c],
    ],
    [
        [0x332726d0356a417f, 0xa0187b4d51209e8f, 0xae6ac4a9e89c5bc7, 0xd42861cd55e7d67e],
        [0x17bcc74d6d684207, 0x8491cabea0afe356, 0xd775f593ce3ad2b2, 0xe7a9b05c7dfb27e8],
    ],
    [
        [0x34d2ea1614daf5ef, 0x3e1dcfb592bde31c, 0x33aa391808fc2081, 0xd570bc621832c9e2],
        [0x40e0529930b9f933, 0xc3b1b366b1852ac8, 0x4e18a3634891a61b, 0xc1bc858eb0b4362e],
    ],
    [
        [0x9fbba63829d14543, 0xe7db270d1e216216, 0x447e604605f9eb87, 0xfbe4c78bb4ae3dd3],
        [0xd756a407dbeecf1f, 0x92ed2607383c017b, 0x0e56d5813cd158af, 0xcc8fc5260352a9bf],
    ],
    [
        [0x9e1fcc46a51571e3, 0x4786a2284cfdb1e7, 0xb1dd1b80230a102c, 0xd5fac783a5998165],
        [0xb8a6acd6998823b7, 0xe810b08a72880e4a, 0xec246343272be0ea, 0xc617edaaa37feba2],
    ],
];

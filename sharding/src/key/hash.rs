//! PostgreSQL's 64-bit hash: Bob Jenkins' lookup3 with a seed, as hash partitioning uses it.
//!
//! The words of the key are read in the byte order of the servers, which is little-endian on every
//! platform that matters; so is the order written here, whatever the router runs on.

/// The seed of hash partitioning.
const PARTITION_SEED: u64 = 0x7a5b_2236_7996_dcfd;

/// What combining a hash with nothing before it adds.
const COMBINE: u64 = 0x49a0_f4dd_15e5_a8e3;

/// The three words that are mixed.
struct State {
    a: u32,
    b: u32,
    c: u32,
}

/// The hash of a row from the hash of its only key.
pub(super) fn combine_first(hash: u64) -> u64 {
    hash.wrapping_add(COMBINE)
}

/// `hashint8extended`: folded so that an int4 of the same value hashes alike.
pub(super) fn int8(value: i64) -> u64 {
    let bits = value.cast_unsigned();
    let [low, high] = [bits & 0xffff_ffff, bits >> 32].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
    let folded = low ^ if value >= 0 { high } else { !high };
    let mut state = State::seeded(4);
    state.a = state.a.wrapping_add(folded);
    state.finish()
}

/// `hash_any_extended` over bytes.
pub(super) fn bytes(key: &[u8]) -> u64 {
    // PostgreSQL's lengths are 32 bits wide too, and a value is at most 1 GB.
    let mut state = State::seeded(u32::try_from(key.len()).unwrap_or(u32::MAX));
    let (blocks, tail) = key.as_chunks::<12>();
    for block in blocks {
        state.add(block);
        state.mix();
    }
    let mut last = [0; 12];
    // The lowest byte of `c` is left free: it belongs to the length.
    for (at, byte) in tail.iter().enumerate() {
        last[if at < 8 { at } else { at + 1 }] = *byte;
    }
    state.add(&last);
    state.finish()
}

impl State {
    fn seeded(length: u32) -> Self {
        let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
        let [seed_low, seed_high] =
            [PARTITION_SEED & 0xffff_ffff, PARTITION_SEED >> 32].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        let mut state = Self { a: start.wrapping_add(seed_high), b: start.wrapping_add(seed_low), c: start };
        state.mix();
        state
    }

    fn add(&mut self, block: &[u8; 12]) {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = *block;
        self.a = self.a.wrapping_add(u32::from_le_bytes([a0, a1, a2, a3]));
        self.b = self.b.wrapping_add(u32::from_le_bytes([b0, b1, b2, b3]));
        self.c = self.c.wrapping_add(u32::from_le_bytes([c0, c1, c2, c3]));
    }

    fn mix(&mut self) {
        let Self { mut a, mut b, mut c } = *self;
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        *self = Self { a, b, c };
    }

    fn finish(self) -> u64 {
        let Self { mut a, mut b, mut c } = self;
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
        u64::from(b) << 32 | u64::from(c)
    }
}

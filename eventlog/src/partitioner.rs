//! Kafka's default partitioner (that of the Java client), so that any Kafka tool finds a key where
//! this service puts it.

use model::Partition;

/// `(murmur2(key) & 0x7fffffff) % partitions`.
pub fn partition_of(key: &[u8], partitions: u32) -> Partition {
    let positive = murmur2(key).cast_unsigned() & 0x7fff_ffff;
    Partition::new(positive % partitions.max(1))
}

/// The 32-bit murmur2 of `org.apache.kafka.common.utils.Utils`, seed and signedness included.
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // The length is mixed in as Java's 32-bit int.
    let mut hash = SEED ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = word.iter().rev().fold(0_u32, |k, byte| (k << 8) | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0_u32, |k, byte| (k << 8) | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_matches_kafkas_published_vectors() {
        let cases: &[(&str, i32)] = &[
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key.as_bytes()), *hash, "{key}");
        }
    }

    #[test]
    fn a_negative_hash_gives_a_partition() {
        assert_eq!(
            partition_of(b"21", 12),
            Partition::new((973_932_308_i64.wrapping_neg() as u32 & 0x7fff_ffff) % 12)
        );
        assert_eq!(partition_of(b"", 1), Partition::new(0));
    }
}

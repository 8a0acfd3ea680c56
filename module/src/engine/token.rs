//! Tokens of leases: numbers that are issued once, and numbers chosen by callers that must not be used again
//! (`DESIGN.md`, Leases). A holder that ends its lease itself, by its write or by CACHE.RELEASE, may choose the token
//! again.

use std::hash::BuildHasher;

use hashlink::LinkedHashMap;

use super::seeds::Seeded;

/// The number by which a holder names its lease: opaque and positive.
pub(crate) type Token = u64;

/// The largest token that is issued: exact as a JavaScript number.
const MAX_TOKEN: Token = (1 << 53) - 1;

/// The time for which a chosen token is remembered after its lease is over.
const REMEMBER_MS: u64 = 60_000;
/// The most chosen tokens that are remembered.
const MAX_REMEMBERED: usize = 100_000;

/// Issues tokens, and knows which must not be granted.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Tokens are the numbers after this one, in order.
    start: u64,
    issued: u64,
    /// Hashes of key and chosen token of leases that are over, and the time at which each is forgotten, the earliest
    /// first.
    used: LinkedHashMap<u64, u64, Seeded>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new(Seeded::default().hash_one(0_u8))
    }
}

impl Tokens {
    /// The seed should differ between starts, so that tokens of an earlier start are not issued again.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            start: seed & MAX_TOKEN,
            issued: 0,
            used: LinkedHashMap::default(),
        }
    }

    /// A token that no caller can have.
    pub(super) fn issue(&mut self) -> Token {
        self.issued += 1;
        match self.start.wrapping_add(self.issued) & MAX_TOKEN {
            0 => self.issue(),
            token => token,
        }
    }

    fn was_issued(&self, token: Token) -> bool {
        token <= MAX_TOKEN
            && (1..=self.issued).contains(&(token.wrapping_sub(self.start) & MAX_TOKEN))
    }

    /// Whether this token must not be granted for a key whose lease it does not hold.
    pub(super) fn is_used(&self, key: &[u8], token: Token) -> bool {
        self.was_issued(token)
            || (!self.used.is_empty() && self.used.contains_key(&self.hash(key, token)))
    }

    fn hash(&self, key: &[u8], token: Token) -> u64 {
        self.used.hasher().hash_one((key, token))
    }

    /// Notes that the lease of this key with this token is over. O(1).
    pub(super) fn retire(&mut self, key: &[u8], token: Token, now_ms: u64) {
        if self.was_issued(token) {
            return;
        }
        if self.used.len() >= MAX_REMEMBERED {
            self.used.pop_front();
        }
        let hash = self.hash(key, token);
        let forget_ms = now_ms.saturating_add(REMEMBER_MS);
        self.used.entry(hash).or_insert(forget_ms);
    }

    /// Forgets chosen tokens of leases that were over long ago, `limit` at most.
    pub(super) fn forget(&mut self, now_ms: u64, limit: usize) {
        for _ in 0..limit {
            match self.used.front() {
                Some((_, at_ms)) if *at_ms <= now_ms => self.used.pop_front(),
                _ => break,
            };
        }
        if self.used.is_empty() && self.used.capacity() > 0 {
            self.used = LinkedHashMap::default();
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        const NODE: usize = 2 * size_of::<u64>() + 2 * size_of::<usize>();
        self.used.len() * NODE + self.used.capacity() * (size_of::<usize>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issued_tokens_are_recognised_and_others_are_not() {
        let count = if cfg!(miri) { 30 } else { 1_000 };
        for seed in [0, 7, MAX_TOKEN, u64::MAX] {
            let mut tokens = Tokens::new(seed);
            let issued: Vec<Token> = (0..count).map(|_| tokens.issue()).collect();
            assert!(
                issued
                    .iter()
                    .all(|&token| tokens.is_used(b"any key", token))
            );
            assert!(
                (1..count).all(|token| issued.contains(&token) || !tokens.is_used(b"k", token))
            );
        }
    }

    #[test]
    fn a_retired_token_is_unusable_for_its_key_for_a_minute() {
        let mut tokens = Tokens::new(1);
        tokens.retire(b"key", 5, 1_000);
        tokens.retire(b"key", 5, 2_000);
        tokens.forget(1_000 + REMEMBER_MS - 1, 10);
        assert!(tokens.is_used(b"key", 5));
        assert!(!tokens.is_used(b"key", 6) && !tokens.is_used(b"other", 5));
        tokens.forget(1_000 + REMEMBER_MS, 10);
        assert!(!tokens.is_used(b"key", 5));
        assert_eq!(tokens.heap_bytes(), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of tokens")]
    fn the_number_of_remembered_tokens_is_bounded() {
        let mut tokens = Tokens::new(1);
        let count = MAX_REMEMBERED as u64 + 10;
        for token in 1..=count {
            tokens.retire(b"key", token, 0);
        }
        assert_eq!(tokens.used.len(), MAX_REMEMBERED);
        assert!(!tokens.is_used(b"key", 1) && tokens.is_used(b"key", count));
    }
}

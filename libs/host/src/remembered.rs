//! The answer kept under a command id, so that the same command gets the same answer, whatever was retried.
//!
//! # Problem
//! A client whose answer got lost asks again. If the second request does the work again, two orders exist; if it is
//! refused as a duplicate, the client never learns what became of the first.
//!
//! # Pattern
//! Idempotency key: the service keeps the answer under the command's id, in the same commit as the effect.
//!
//! # Here
//! What is kept is a fingerprint of the request and the answer, business refusals included. Another request under the same
//! id is a mistake of the client and is refused ([`reuse`]).
//!
//! # Limits
//! Answers that say "unknown" (unavailable, out of time) are not kept, nor are refusals of malformed requests, which change
//! nothing and would be given again. Answers are kept for ever.
use prost::Message;
use sha2::{Digest, Sha256};

use crate::error::{Kept, Refusal};

const FINGERPRINT_BYTES: usize = 16;

/// An answer and the request it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    fingerprint: [u8; FINGERPRINT_BYTES],
    /// What was answered: the encoded message, or the refusal.
    pub outcome: Result<Vec<u8>, Refusal>,
}

/// What tells one request from another: the head of the SHA-256 of its method and encoded message.
#[must_use]
pub fn fingerprint(method: &str, request: &impl Message) -> [u8; FINGERPRINT_BYTES] {
    let mut hash = Sha256::new();
    hash.update(method.as_bytes());
    hash.update([0]);
    hash.update(request.encode_to_vec());
    let digest = hash.finalize();
    std::array::from_fn(|n| digest[n])
}

/// The reason of [`reuse`].
pub const REUSED: &str = "idempotency_key_reused";

/// Refuses a second request under an id that was used for another.
#[must_use]
pub fn reuse() -> Refusal {
    Refusal::precondition(REUSED, "this Idempotency-Key was used for another request; use a new key")
        .field("Idempotency-Key")
}

impl Remembered {
    /// An answer to the request with this fingerprint.
    #[must_use]
    pub fn new(fingerprint: [u8; FINGERPRINT_BYTES], outcome: Result<Vec<u8>, Refusal>) -> Remembered {
        Remembered { fingerprint, outcome }
    }

    /// The bytes to keep.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.fingerprint.to_vec();
        match &self.outcome {
            Ok(message) => {
                bytes.push(0);
                bytes.extend_from_slice(message);
            }
            Err(refusal) => {
                bytes.push(1);
                let kept = serde_json::to_vec(&Kept::from(refusal.clone())).expect("strings and numbers are JSON");
                bytes.extend_from_slice(&kept);
            }
        }
        bytes
    }

    /// Reads what was kept; `None` if that is no remembered answer.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Remembered> {
        let (fingerprint, rest) = bytes.split_first_chunk::<FINGERPRINT_BYTES>()?;
        let outcome = match rest.split_first()? {
            (0, message) => Ok(message.to_vec()),
            (1, kept) => Err(serde_json::from_slice::<Kept>(kept).ok()?.into()),
            _ => return None,
        };
        Some(Remembered { fingerprint: *fingerprint, outcome })
    }

    /// The answer, if it was to the request with this fingerprint.
    ///
    /// # Errors
    /// The refusal that was answered, or [`reuse`].
    pub fn answer_to(self, fingerprint: [u8; FINGERPRINT_BYTES]) -> Result<Vec<u8>, Refusal> {
        if self.fingerprint == fingerprint { self.outcome } else { Err(reuse()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_being_kept() {
        let refusal = Refusal::precondition("out_of_stock", "only 2 left").field("lines[1].sku").fact("available", 2);
        for outcome in [Ok(vec![]), Ok(vec![0, 255, 7]), Err(refusal)] {
            let kept = Remembered::new([7; 16], outcome);
            assert_eq!(Remembered::decode(&kept.encode()), Some(kept));
        }
        assert_eq!(Remembered::decode(b"something else"), None);
    }

    #[test]
    fn another_request_under_the_same_id_is_refused() {
        let kept = Remembered::new([7; 16], Ok(vec![1]));
        assert_eq!(kept.clone().answer_to([7; 16]), Ok(vec![1]));
        assert_eq!(kept.answer_to([8; 16]), Err(reuse()));
    }
}

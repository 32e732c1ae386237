//! Authentication: the nonce, the secret and the SHA-1 signature over both.

use std::{fmt, sync::Arc};

use sha1::{Digest as _, Sha1};
use subtle::ConstantTimeEq as _;

/// The signature in AUTH: `SHA1(nonce ‖ secret)`, 20 bytes.
pub type Digest = [u8; 20];

/// The random bytes of one connection, sent by the broker in INFO and signed by the client.
///
/// Brokers send 4 or 16 bytes; any length is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Nonce(Box<[u8]>);

impl Nonce {
    /// Takes the bytes as they are. A broker must choose them at random for every connection.
    #[must_use]
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes as they stand in INFO.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The shared secret of an authkey. It is never printed: `Debug` shows a placeholder.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Stores a secret; its bytes are signed as they are (UTF-8 when it comes from a string).
    #[must_use]
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        Self(secret.as_ref().into())
    }

    /// Whether it has no byte, so that everybody knows it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Signs a nonce: the client's answer in AUTH.
    #[must_use]
    pub fn sign(&self, nonce: &Nonce) -> Digest {
        let mut hash = Sha1::new();
        hash.update(&nonce.0);
        hash.update(&self.0);
        hash.finalize().into()
    }

    /// Whether the digest is this secret's answer to the nonce. How long it takes does not depend
    /// on where they differ.
    #[must_use]
    pub fn verify(&self, nonce: &Nonce, digest: &Digest) -> bool {
        self.sign(nonce).ct_eq(digest).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self::new(secret)
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self::new(secret)
    }
}

impl From<&String> for Secret {
    fn from(secret: &String) -> Self {
        Self::new(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '\001\002\003\004secret' | sha1sum`
    const KNOWN: Digest = [
        0xbf, 0x13, 0xc5, 0x97, 0xff, 0xb2, 0x88, 0xba, 0x1d, 0x01, 0x3c, 0x27, 0x7c, 0x6a, 0x22, 0x9a, 0x8e, 0x97,
        0x6b, 0x5a,
    ];

    #[test]
    fn signature_covers_nonce_then_secret() {
        let nonce = Nonce::new([1, 2, 3, 4]);
        assert_eq!(Secret::from("secret").sign(&nonce), KNOWN);
    }

    #[test]
    fn secret_verifies_only_the_exact_digest() {
        let nonce = Nonce::new([1, 2, 3, 4]);
        let secret = Secret::from("secret");
        assert!(secret.verify(&nonce, &KNOWN));
        for byte in 0..20 {
            let mut wrong = KNOWN;
            wrong[byte] ^= 1;
            assert!(!secret.verify(&nonce, &wrong), "byte {byte}");
        }
        assert!(!Secret::from("Secret").verify(&nonce, &KNOWN));
    }

    #[test]
    fn debug_of_a_secret_does_not_show_it() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "Secret(…)");
    }
}

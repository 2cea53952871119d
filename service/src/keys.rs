//! Keys, each with the one algorithm it is for: a token's `alg` chooses nothing.

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Header, crypto, decode_header};

use crate::auth::AuthError;
use crate::claims::Payload;

/// The smallest RSA modulus taken, in bits.
const RSA_BITS: usize = 2048;

/// The largest: verifying takes time that grows with it, and anyone may ask for it.
const RSA_BITS_MAX: usize = 4096;

/// An uncompressed point of P-256: the form's byte and two coordinates, in bytes.
const P256_POINT_BYTES: usize = 65;

const ED25519_BYTES: usize = 32;

/// A key and its algorithm.
pub(crate) struct Key {
    decoding: DecodingKey,
    algorithm: Algorithm,
}

/// The token's header. Nothing in it is trusted but as a hint which key to try.
pub(crate) fn header(token: &str) -> Result<Header, AuthError> {
    let header = decode_header(token).map_err(|_| AuthError::Malformed)?;
    // RFC 7515: what `crit` names must be understood, and nothing is.
    if header.crit.is_some() { Err(AuthError::Malformed) } else { Ok(header) }
}

impl Key {
    /// A shared secret: HS256.
    pub(crate) fn from_secret(secret: &str) -> Self {
        Self { decoding: DecodingKey::from_secret(secret.as_bytes()), algorithm: Algorithm::HS256 }
    }

    /// A public key in PEM: its type is its algorithm. The error says what is taken.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, String> {
        if pem.contains("PRIVATE KEY") {
            return Err("it is a private key; give the public one \
                        (openssl pkey -in private.pem -pubout)"
                .to_owned());
        }
        if !pem.contains("PUBLIC KEY") {
            return Err("it has no line -----BEGIN PUBLIC KEY-----".to_owned());
        }
        let bytes = pem.as_bytes();
        if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
            return Self::checked(key, Algorithm::RS256);
        }
        if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
            return Self::checked(key, Algorithm::ES256);
        }
        if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
            return Self::checked(key, Algorithm::EdDSA);
        }
        Err("it is none of RSA, P-256 and Ed25519".to_owned())
    }

    /// A key out of a JWKS; the error says why it is passed over.
    pub(crate) fn from_jwk(jwk: &Jwk) -> Result<Self, String> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err("it is not for signatures".to_owned());
        }
        if common.key_operations.as_ref().is_some_and(|ops| !ops.contains(&KeyOperations::Verify)) {
            return Err("it is not for verifying".to_owned());
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            // A secret in a public document is no secret.
            _ => return Err("it is none of RSA, P-256 and Ed25519".to_owned()),
        };
        if common.key_algorithm.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
            return Err(format!("its alg is not {algorithm:?}"));
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
        Self::checked(key, algorithm)
    }

    fn checked(key: DecodingKey, algorithm: Algorithm) -> Result<Self, String> {
        let size = match key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
            DecodingKeyKind::RsaModulusExponent { .. } => 0,
        };
        match algorithm {
            Algorithm::RS256 => match rsa_bits(&key) {
                Some(RSA_BITS..=RSA_BITS_MAX) => {}
                Some(bits) => {
                    return Err(format!(
                        "the RSA key has {bits} bits, {RSA_BITS} to {RSA_BITS_MAX} are taken"
                    ));
                }
                None => return Err("it is not a whole RSA key".to_owned()),
            },
            Algorithm::ES256 if size != P256_POINT_BYTES => {
                return Err("of elliptic curves, only P-256 is taken".to_owned());
            }
            Algorithm::EdDSA if size != ED25519_BYTES => {
                return Err("of Edwards curves, only Ed25519 is taken".to_owned());
            }
            _ => {}
        }
        // A key that cannot verify anything shall be found now, not by the first caller.
        crypto::verify("", b"", &key, algorithm).map_err(|error| error.to_string())?;
        Ok(Self { decoding: key, algorithm })
    }

    /// The algorithm this key is for.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The token's payload, if this key signed it.
    pub(crate) fn open(&self, token: &str, header: &Header) -> Result<Payload, AuthError> {
        if header.alg != self.algorithm {
            return Err(AuthError::Algorithm);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
        match crypto::verify(signature, message.as_bytes(), &self.decoding, self.algorithm) {
            Ok(true) => {}
            Ok(false) => return Err(AuthError::Signature),
            Err(_) => return Err(AuthError::Malformed),
        }
        // Insecure but for the line above. The claims are checked in `claims`, which can say what
        // is wrong with each.
        insecure_decode_claims(token).map_err(|_| AuthError::Malformed)
    }
}

/// The modulus's size.
fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => bits(n),
        DecodingKeyKind::SecretOrDer(der) => {
            let (sequence, _) = der_value(der, 0x30)?;
            let (modulus, _) = der_value(sequence, 0x02)?;
            bits(modulus)
        }
    }
}

/// The value of the DER element that `der` begins with, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

/// The bits of a big-endian number; none for zero.
fn bits(number: &[u8]) -> Option<usize> {
    let start = number.iter().position(|byte| *byte != 0)?;
    Some((number.len() - start) * 8 - number[start].leading_zeros() as usize)
}

//! Who is calling: bearer tokens (JWT), verified and remembered for a moment.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::HeaderMap;
use ::http::header::AUTHORIZATION;
use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use moka::sync::Cache;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::claims::{self, Rules};
use crate::jwks::Jwks;
use crate::keys::{self, Key};
use crate::problem::Problem;
use crate::secret::Secret;

/// The longest token taken, in bytes.
pub const TOKEN_BYTES: usize = 8 * 1024;

/// Verified tokens remembered at once.
const CACHED_TOKENS: u64 = 10_000;

/// How long a verified token is remembered at most: a key that is withdrawn counts for no longer.
const CACHED_FOR: Duration = Duration::from_secs(60);

/// The fewest bytes of a shared secret: as many as HS256 puts out.
pub const SECRET_BYTES: usize = 32;

/// How tokens are verified. Exactly one of the four key sources must be given.
#[derive(Args, Clone, Debug)]
pub struct AuthConfig {
    /// The secret shared with the issuer (HS256), at least 32 bytes
    #[arg(long, env = "CONTEXT_SYNC_JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<Secret>,

    /// A file with that secret; whitespace at its end does not count
    #[arg(long, env = "CONTEXT_SYNC_JWT_SECRET_FILE")]
    pub jwt_secret_file: Option<PathBuf>,

    /// A PEM file with the issuer's public key: RSA of at least 2048 bits (RS256), P-256 (ES256)
    /// or Ed25519 (EdDSA)
    #[arg(long, env = "CONTEXT_SYNC_JWT_PUBLIC_KEY_FILE")]
    pub jwt_public_key_file: Option<PathBuf>,

    /// The address of the issuer's keys (JWKS): https, or http on this machine
    #[arg(long, env = "CONTEXT_SYNC_JWT_JWKS_URL")]
    pub jwt_jwks_url: Option<String>,

    /// The `iss` that tokens must have; any if not given
    #[arg(long, env = "CONTEXT_SYNC_JWT_ISSUER")]
    pub jwt_issuer: Option<String>,

    /// The `aud` that tokens must have, or have among others; any if not given
    #[arg(long, env = "CONTEXT_SYNC_JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,

    /// Seconds by which the issuer's clock may differ from this one's
    #[arg(long, env = "CONTEXT_SYNC_JWT_LEEWAY_SECONDS")]
    #[arg(default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=300))]
    pub jwt_leeway_seconds: u64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            jwt_secret: None,
            jwt_secret_file: None,
            jwt_public_key_file: None,
            jwt_jwks_url: None,
            jwt_issuer: None,
            jwt_audience: None,
            jwt_leeway_seconds: 30,
        }
    }
}

/// Tokens cannot be verified as configured.
#[derive(Debug, thiserror::Error)]
pub enum AuthConfigError {
    /// No key source, or several.
    #[error(
        "{given} key sources are configured, one is needed: --jwt-secret, --jwt-secret-file, \
         --jwt-public-key-file or --jwt-jwks-url"
    )]
    Sources {
        /// How many were given.
        given: usize,
    },
    /// The shared secret is too short to be safe.
    #[error(
        "the JWT secret has {bytes} bytes, at least {SECRET_BYTES} are needed; \
         make one with: openssl rand -base64 48"
    )]
    ShortSecret {
        /// How many it has.
        bytes: usize,
    },
    /// The shared secret is a key in PEM, perhaps a public one.
    #[error("the JWT secret is a PEM key; give a public key with --jwt-public-key-file")]
    SecretIsPem,
    /// A key file cannot be read.
    #[error("{} cannot be read ({source}); check the path and its permissions", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key file holds no key that is taken.
    #[error("{} holds no usable public key: {reason}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is taken.
        reason: String,
    },
    /// The JWKS address is not usable.
    #[error("--jwt-jwks-url is not usable: {0}")]
    JwksUrl(String),
}

/// What a token says about the caller's place in the whole tenant.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum OrgRole {
    /// Nothing special: also where the token says nothing.
    #[default]
    Member,
    /// An administrator.
    Admin,
    /// An owner.
    Owner,
}

impl OrgRole {
    /// The word in the token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for OrgRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no org role.
#[derive(Debug, thiserror::Error)]
#[error("an org role is member, admin or owner")]
pub struct NotAnOrgRole;

impl FromStr for OrgRole {
    type Err = NotAnOrgRole;

    fn from_str(word: &str) -> Result<Self, NotAnOrgRole> {
        match word {
            "member" => Ok(Self::Member),
            "admin" => Ok(Self::Admin),
            "owner" => Ok(Self::Owner),
            _ => Err(NotAnOrgRole),
        }
    }
}

/// Who is calling, as a verified token says. Both ids keep to the id rule (see [`is_id`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The token's `sub`.
    pub user: String,
    /// The token's `tenant_id`.
    pub tenant: String,
    /// The token's `org_role`.
    pub org_role: OrgRole,
}

/// Why a token is refused. No variant holds a part of the token but the names of claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no `Authorization` header.
    #[error("There is no Authorization header; send Authorization: Bearer <jwt>")]
    Missing,
    /// The header is not a bearer token, or there are several.
    #[error("There must be one Authorization header of the form: Bearer <jwt>")]
    NotBearer,
    /// The token is longer than [`TOKEN_BYTES`].
    #[error("The token is longer than {TOKEN_BYTES} bytes")]
    TooLong,
    /// The token is not three parts of base64url, or its header is not JSON that is understood.
    #[error("The token is not a signed JWT with a known alg")]
    Malformed,
    /// The token's `alg` is not the key's.
    #[error("The token's alg is not the one that the server's key is for")]
    Algorithm,
    /// No key has the token's `kid`.
    #[error("The token names no key (kid) that the server knows")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("The token's signature is not valid")]
    Signature,
    /// A claim that is needed is not there.
    #[error("The token has no claim {0}")]
    MissingClaim(&'static str),
    /// A claim is not what it must be.
    #[error("The token's claim {claim} is not valid: {needs}")]
    BadClaim {
        /// The claim.
        claim: &'static str,
        /// What it must be.
        needs: &'static str,
    },
    /// `exp` is in the past.
    #[error("The token has expired")]
    Expired,
    /// `nbf` is in the future.
    #[error("The token is not valid yet (nbf)")]
    NotYet,
    /// The issuer's keys could never be fetched, or not since an unknown `kid` came.
    #[error("The issuer's keys cannot be fetched at the moment")]
    KeysUnavailable,
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing => Self::token_missing(error.to_string()),
            // The token may be good: the caller should try again, not sign in again.
            AuthError::KeysUnavailable => Self::unavailable(error.to_string())
                .resolution("Retry with backoff")
                .with("accepted", false),
            _ => Self::unauthenticated(error.to_string()),
        }
    }
}

/// Whether a text may be the id of a tenant, a user or a device: 1 to 128 of
/// `A-Z a-z 0-9 . _ : @ | + -`, and not `.` or `..`.
pub fn is_id(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:@|+-".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}

/// Verifies tokens. One a process, shared by its services: it remembers what it verified.
pub struct Verifier {
    keys: Keys,
    rules: Rules,
    verified: Cache<[u8; 32], Verified>,
}

enum Keys {
    One(Box<Key>),
    Fetched(Jwks),
}

#[derive(Clone)]
struct Verified {
    caller: Arc<Caller>,
    /// The first second (unix time) at which the token has expired, leeway included.
    ends: u64,
}

impl Verifier {
    /// Reads the key. A JWKS is fetched when the first token comes.
    ///
    /// # Errors
    /// If not exactly one key source is configured, or it cannot be used.
    pub fn new(config: &AuthConfig) -> Result<Self, AuthConfigError> {
        Ok(Self {
            keys: keys_of(config)?,
            rules: Rules {
                issuer: config.jwt_issuer.clone(),
                audience: config.jwt_audience.clone(),
                leeway: config.jwt_leeway_seconds,
            },
            verified: Cache::builder().max_capacity(CACHED_TOKENS).time_to_live(CACHED_FOR).build(),
        })
    }

    /// Verifies a token (without the word `Bearer`).
    ///
    /// # Errors
    /// Why it is refused; nothing of it is echoed.
    pub async fn verify(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        self.verify_at(token, unix_now()).await
    }

    pub(crate) async fn verify_at(&self, token: &str, now: u64) -> Result<Arc<Caller>, AuthError> {
        if token.len() > TOKEN_BYTES {
            return Err(AuthError::TooLong);
        }
        // The digest, so that a copy of the cache's memory is no bunch of tokens.
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.verified.get(&digest) {
            return if now < known.ends { Ok(known.caller) } else { Err(AuthError::Expired) };
        }
        let header = keys::header(token)?;
        let payload = match &self.keys {
            Keys::One(key) => key.open(token, &header)?,
            Keys::Fetched(jwks) => jwks.key(&header).await?.open(token, &header)?,
        };
        let (caller, ends) = claims::check(&payload, &self.rules, now)?;
        let caller = Arc::new(caller);
        self.verified.insert(digest, Verified { caller: caller.clone(), ends });
        Ok(caller)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("rules", &self.rules).finish_non_exhaustive()
    }
}

fn keys_of(config: &AuthConfig) -> Result<Keys, AuthConfigError> {
    let AuthConfig { jwt_secret, jwt_secret_file, jwt_public_key_file, jwt_jwks_url, .. } = config;
    match (jwt_secret, jwt_secret_file, jwt_public_key_file, jwt_jwks_url) {
        (Some(secret), None, None, None) => secret_key(secret.expose()),
        (None, Some(path), None, None) => secret_key(read(path)?.trim_end()),
        (None, None, Some(path), None) => match Key::from_pem(&read(path)?) {
            Ok(key) => Ok(Keys::One(Box::new(key))),
            Err(reason) => Err(AuthConfigError::Key { path: path.clone(), reason }),
        },
        (None, None, None, Some(url)) => {
            Jwks::new(url).map(Keys::Fetched).map_err(AuthConfigError::JwksUrl)
        }
        (secret, secret_file, pem, jwks) => {
            let given = [secret.is_some(), secret_file.is_some(), pem.is_some(), jwks.is_some()];
            let given = given.into_iter().filter(|given| *given).count();
            Err(AuthConfigError::Sources { given })
        }
    }
}

fn secret_key(secret: &str) -> Result<Keys, AuthConfigError> {
    if secret.len() < SECRET_BYTES {
        return Err(AuthConfigError::ShortSecret { bytes: secret.len() });
    }
    // Whoever has the public key could sign with it.
    if secret.contains("-----BEGIN") {
        return Err(AuthConfigError::SecretIsPem);
    }
    Ok(Keys::One(Box::new(Key::from_secret(secret))))
}

fn read(path: &PathBuf) -> Result<String, AuthConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| AuthConfigError::File { path: path.clone(), source })
}

/// Verifies the request's `Authorization` header (its scheme in any case of letters).
///
/// # Errors
/// 401 with `WWW-Authenticate`, saying what is wrong; 503 if the issuer's keys cannot be fetched.
pub async fn authenticate(
    headers: &HeaderMap,
    verifier: &Verifier,
) -> Result<Arc<Caller>, Problem> {
    Ok(verifier.verify(bearer(headers)?).await?)
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    // Two headers: which one a proxy in front has checked is anyone's guess.
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => return Err(AuthError::Missing),
        (Some(_), Some(_)) => return Err(AuthError::NotBearer),
    };
    let value = value.to_str().map_err(|_| AuthError::NotBearer)?;
    let (scheme, token) = value.split_once(' ').ok_or(AuthError::NotBearer)?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(' ') {
        return Err(AuthError::NotBearer);
    }
    Ok(token)
}

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// An id that the server would refuse.
    #[error("{0} is no id: 1 to 128 of A-Z a-z 0-9 . _ : @ | + -, not . or ..")]
    Id(&'static str),
    /// The secret that signs is too short.
    #[error("the secret has fewer than {SECRET_BYTES} bytes, so no server takes the token")]
    ShortSecret,
    /// Signing failed.
    #[error("the token cannot be signed ({0})")]
    Signing(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct NewClaims<'a> {
    sub: &'a str,
    tenant_id: &'a str,
    org_role: OrgRole,
    iat: u64,
    exp: u64,
}

/// Makes a token for development and tests, good from now for `ttl` (whole seconds).
///
/// # Errors
/// If the server that has this secret would not take it.
pub fn sign_hs256(
    secret: &Secret,
    user: &str,
    tenant: &str,
    org_role: OrgRole,
    ttl: Duration,
) -> Result<String, SignError> {
    if !is_id(user) {
        return Err(SignError::Id("the user"));
    }
    if !is_id(tenant) {
        return Err(SignError::Id("the tenant"));
    }
    let secret = secret.expose().as_bytes();
    if secret.len() < SECRET_BYTES {
        return Err(SignError::ShortSecret);
    }
    let iat = unix_now();
    let exp = iat.saturating_add(ttl.as_secs());
    let claims = NewClaims { sub: user, tenant_id: tenant, org_role, iat, exp };
    let key = EncodingKey::from_secret(secret);
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}

fn unix_now() -> u64 {
    // A clock before 1970 reads as 1970: tokens are then not valid yet, and nothing panics.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;

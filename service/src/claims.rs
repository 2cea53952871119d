//! What a token with a good signature must say besides.

use serde::Deserialize;
use serde_json::Value;

use crate::auth::{AuthError, Caller, OrgRole, is_id};

/// How far ahead of this clock a token may claim to have been issued, in seconds, leeway
/// included: more is an issuer whose clock is wrong.
const ISSUED_AHEAD_SECONDS: u64 = 300;

const ID: &str = "1 to 128 of A-Z a-z 0-9 . _ : @ | + -, not . or ..";
const TIME: &str = "a number of seconds since 1970";

/// What is checked beyond the claims that every token needs.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    /// Seconds.
    pub(crate) leeway: u64,
}

/// The claims as sent, of any type: a wrong type is then told from an absent claim. `null` counts
/// as absent; a claim that comes twice fails.
#[derive(Deserialize)]
pub(crate) struct Payload {
    sub: Option<Value>,
    tenant_id: Option<Value>,
    org_role: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
}

/// The caller, and the first second at which the token has expired (leeway included).
pub(crate) fn check(
    payload: &Payload,
    rules: &Rules,
    now: u64,
) -> Result<(Caller, u64), AuthError> {
    let exp = time("exp", &payload.exp)?.ok_or(AuthError::MissingClaim("exp"))?;
    let ends = exp.saturating_add(rules.leeway);
    if now >= ends {
        return Err(AuthError::Expired);
    }
    if time("nbf", &payload.nbf)?.is_some_and(|nbf| nbf > now.saturating_add(rules.leeway)) {
        return Err(AuthError::NotYet);
    }
    let ahead = now.saturating_add(ISSUED_AHEAD_SECONDS);
    if time("iat", &payload.iat)?.is_some_and(|iat| iat > ahead) {
        return Err(AuthError::BadClaim { claim: "iat", needs: "a time that has come" });
    }
    issuer(payload, rules)?;
    audience(payload, rules)?;
    let caller = Caller {
        user: id("sub", &payload.sub)?,
        tenant: id("tenant_id", &payload.tenant_id)?,
        org_role: org_role(&payload.org_role)?,
    };
    Ok((caller, ends))
}

/// A NumericDate: whole seconds, or a fraction that is cut off.
fn time(claim: &'static str, value: &Option<Value>) -> Result<Option<u64>, AuthError> {
    let Some(value) = value else { return Ok(None) };
    let seconds = match (value.as_u64(), value.as_f64()) {
        (Some(seconds), _) => Some(seconds),
        // The cast saturates, and an f64 out of JSON is finite.
        (None, Some(seconds)) if seconds >= 0.0 => Some(seconds as u64),
        _ => None,
    };
    seconds.map(Some).ok_or(AuthError::BadClaim { claim, needs: TIME })
}

fn id(claim: &'static str, value: &Option<Value>) -> Result<String, AuthError> {
    match value {
        None => Err(AuthError::MissingClaim(claim)),
        Some(Value::String(text)) if is_id(text) => Ok(text.clone()),
        Some(_) => Err(AuthError::BadClaim { claim, needs: ID }),
    }
}

fn org_role(value: &Option<Value>) -> Result<OrgRole, AuthError> {
    let Some(value) = value else { return Ok(OrgRole::default()) };
    value
        .as_str()
        .and_then(|word| word.parse().ok())
        .ok_or(AuthError::BadClaim { claim: "org_role", needs: "member, admin or owner" })
}

fn issuer(payload: &Payload, rules: &Rules) -> Result<(), AuthError> {
    let Some(needed) = &rules.issuer else { return Ok(()) };
    match &payload.iss {
        None => Err(AuthError::MissingClaim("iss")),
        Some(Value::String(iss)) if iss == needed => Ok(()),
        Some(_) => {
            Err(AuthError::BadClaim { claim: "iss", needs: "the issuer this server trusts" })
        }
    }
}

fn audience(payload: &Payload, rules: &Rules) -> Result<(), AuthError> {
    let Some(needed) = &rules.audience else { return Ok(()) };
    let fits = |value: &Value| value.as_str() == Some(needed);
    match &payload.aud {
        None => Err(AuthError::MissingClaim("aud")),
        Some(Value::Array(several)) if several.iter().any(fits) => Ok(()),
        Some(one) if fits(one) => Ok(()),
        Some(_) => Err(AuthError::BadClaim { claim: "aud", needs: "to name this server" }),
    }
}

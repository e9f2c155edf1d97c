//! Keys: `pr1-ID-SECRET`. Only the SHA-256 of the secret is stored.

use rand::TryRngCore;
use rand::rngs::OsRng;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::StoreError;

const PREFIX: &str = "pr1-";
const ID_BYTES: usize = 8;
/// The secret is random and long, so it needs no slow hash.
const SECRET_BYTES: usize = 32;

/// What a key may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyLimits {
    /// Models by the name that requests ask for; a `*` at the end stands for any rest. None: all,
    /// and requests that name no model.
    pub models: Vec<String>,
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, of both models together; a request is refused once they are used up.
    pub tokens_per_minute: Option<u64>,
    /// Cost per day (UTC), in the currency of the configured prices; a request is refused once it
    /// is spent.
    pub budget_per_day: Option<f64>,
}

impl KeyLimits {
    /// Whether a request may ask for the model of this name, which is empty if it names none.
    pub fn allows(&self, model: &str) -> bool {
        let is_listed = |allowed: &String| match allowed.strip_suffix('*') {
            Some(start) => model.starts_with(start),
            None => allowed == model,
        };
        self.models.is_empty() || (!model.is_empty() && self.models.iter().any(is_listed))
    }
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Identifies the key, and is a part of it.
    pub id: String,
    /// The purpose of the key, for the operator.
    pub name: String,
    /// SHA-256 of the secret, hexadecimal.
    pub(super) hash: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970; `None` while it is valid.
    pub revoked_at: Option<i64>,
    /// What it may use.
    pub limits: KeyLimits,
}

impl Key {
    /// Whether the secret is this key's, and the key valid. Takes the same time for any secret.
    pub(super) fn accepts(&self, secret: &str) -> bool {
        let is_same: bool = hash(secret).as_bytes().ct_eq(self.hash.as_bytes()).into();
        is_same && self.revoked_at.is_none()
    }
}

/// A key that was just made.
pub struct NewKey {
    /// The record to keep.
    pub key: Key,
    /// What its owner sends. Shown once and never stored.
    pub bearer: SecretString,
}

impl NewKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(name: &str, limits: KeyLimits, created_at: i64) -> Result<Self, StoreError> {
        let mut bytes = [0; ID_BYTES + SECRET_BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(|error| StoreError::Random(error.to_string()))?;
        let (id, secret) = bytes.split_at(ID_BYTES);
        let (id, secret) = (hex(id), hex(secret));
        let bearer = format!("{PREFIX}{id}-{secret}").into();
        let (name, hash) = (name.to_owned(), hash(&secret));
        let key = Key { id, name, hash, created_at, revoked_at: None, limits };
        Ok(Self { key, bearer })
    }
}

/// Whether a bearer token has the form of this server's keys.
pub fn has_key_format(bearer: &str) -> bool {
    bearer.starts_with(PREFIX)
}

/// The id and the secret of a bearer token.
pub(super) fn split(bearer: &str) -> Option<(&str, &str)> {
    let (id, secret) = bearer.strip_prefix(PREFIX)?.split_once('-')?;
    let is_hex = |text: &str, bytes: usize| {
        text.len() == bytes * 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    (is_hex(id, ID_BYTES) && is_hex(secret, SECRET_BYTES)).then_some((id, secret))
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

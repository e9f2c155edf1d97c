//! tmp
use serde::{Deserialize, Serialize};
/// tmp
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    pub listen: String,
    pub grace_s: u64,
}
/// tmp
pub fn openapi_json() -> String {
    String::new()
}

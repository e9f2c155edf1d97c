//! A configuration file: any content is parsed or refused with a reason.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/config/parse.rs"]
mod parse;
#[path = "../../src/http/config.rs"]
mod server;

#[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    schema_version: u32,
    server: server::ServerConfig,
}

fuzz_target!(|text: &str| {
    match parse::parse_toml::<Config>(text) {
        Ok(config) => {
            let written = toml::to_string(&config).unwrap();
            assert_eq!(parse::parse_toml::<Config>(&written), Ok(config));
        }
        Err(reason) => assert!(!reason.trim().is_empty()),
    }
});

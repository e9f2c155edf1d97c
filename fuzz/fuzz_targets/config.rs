//! A configuration file: any content is parsed or refused with a reason.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/hint.rs"]
#[macro_use]
mod hint;

#[path = "../../src/engine/config.rs"]
mod engine;
#[path = "../../src/config/parse.rs"]
mod parse;
#[path = "../../src/spelling.rs"]
mod spelling;

#[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    schema_version: u32,
    native: engine::NativeConfig,
    mistralrs: engine::MistralRsConfig,
}

fuzz_target!(|text: &str| {
    match parse::parse_toml::<Config>(text) {
        Ok(config) => {
            let written = toml::to_string(&config).unwrap();
            assert_eq!(parse::parse_toml::<Config>(&written), Ok(config));
        }
        Err(reason) => assert!(!reason.text.trim().is_empty()),
    }
});

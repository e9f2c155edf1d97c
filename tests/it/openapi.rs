//! The OpenAPI document: committed, served, and shown.

use std::path::Path;

use serde_json::{Value, json};

use crate::loopback::Loopback;
use crate::server::Setup;

#[test]
fn the_committed_document_is_the_servers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let made = format!("{}\n", prompt_r1::http::openapi_json());
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        made == committed,
        "`openapi/openapi.json` is out of date\nhint: run `cargo run -- openapi > openapi/openapi.json`"
    );
}

#[test]
fn what_needs_a_key_says_so() {
    let document: Value = serde_json::from_str(&prompt_r1::http::openapi_json()).unwrap();
    assert_eq!(document["security"], json!([{}, {"bearer": []}]));
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    for (path, operations) in document["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values() {
            for status in ["401", "403", "429", "503"] {
                let is_documented = operation["responses"].get(status).is_some();
                let needs_key = path.starts_with("/v1/");
                assert!(is_documented || !needs_key, "{path} {status}");
            }
        }
    }
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let served = server.get("/openapi.json").await.text().await.unwrap();
    assert_eq!(served, prompt_r1::http::openapi_json());
    let page = server.get("/docs/").await.text().await.unwrap();
    assert!(page.contains("swagger-ui"), "{page}");
}

//! The OpenAPI document: committed, served, and shown.

use std::path::Path;

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

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let served = server.get("/openapi.json").await.text().await.unwrap();
    assert_eq!(served, prompt_r1::http::openapi_json());
    let page = server.get("/docs/").await.text().await.unwrap();
    assert!(page.contains("swagger-ui"), "{page}");
}
